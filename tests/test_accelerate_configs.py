"""The shipped Accelerate configurations: what each one sets up, and those for the CPU and FSDP2 really launched.

The file is also the script that FSDP2 is launched with: it trains a tiny sharded model and reports the losses.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    FullyShardedDataParallelPlugin,
    gather_object,
    patch_environment,
)
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)
from conftest import PATIENCE
from torch.distributed.fsdp import CPUOffloadPolicy, StateDictType
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, LlamaConfig

from hf_semfocus.models import Sizes, build_model

ROOT = Path(__file__).parents[1]
CONFIGS = {path.stem: path for path in sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))}
EXPECTED = {  # distributed type, processes, precision
    "cpu": (DistributedType.NO, 1, "no"),
    "multi_cpu": (DistributedType.MULTI_GPU, 2, "no"),  # the only type for which Accelerate needs no mpirun
    "one_gpu": (DistributedType.NO, 1, "bf16"),
    "multi_gpu": (DistributedType.MULTI_GPU, 8, "bf16"),
    "fsdp2": (DistributedType.FSDP, 8, "bf16"),
    "deepspeed_zero3": (DistributedType.DEEPSPEED, 8, "bf16"),
}
STEPS, BATCH, LENGTH = 10, 6, 21
RESULT = "RESULT "
PROCESSES = f"""
import json
from accelerate import Accelerator
from accelerate.utils import gather_object

accelerator = Accelerator()
place = accelerator.process_index, accelerator.num_processes
reports = gather_object([[*place, accelerator.device.type, accelerator.mixed_precision]])
accelerator.print({RESULT!r} + json.dumps(reports))
accelerator.wait_for_everyone()
accelerator.end_training()
"""


def launch_arguments(name, *options):
    """What ``accelerate launch`` makes of a configuration before it starts anything."""
    options = ["--config_file", str(CONFIGS[name]), "--main_process_port", "0", *options]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args([*options, "script.py"]))
    args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return args


def launch(script, name, *options, **environment):
    """Launch a script with a configuration; returns what its processes report, by rank."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS[name])]
    command += ["--main_process_port", "0", *options, str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    return json.loads(line.removeprefix(RESULT))


def test_every_configuration_is_expected():
    assert set(CONFIGS) == set(EXPECTED)


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_reads_every_key(name):
    config = load_config_from_file(str(CONFIGS[name]))  # which refuses unknown keys at the top, but not below
    assert (config.distributed_type, config.num_processes, config.mixed_precision) == EXPECTED[name]
    assert config.num_machines == 1
    options = vars(launch_command_parser().parse_args(["script.py"]))
    content = yaml.safe_load(CONFIGS[name].read_text())
    inner = {key for value in content.values() if isinstance(value, dict) for key in value}
    assert inner <= set(options)
    assert bool(config.fsdp_config) == (config.distributed_type == DistributedType.FSDP)
    assert bool(config.deepspeed_config) == (config.distributed_type == DistributedType.DEEPSPEED)


@pytest.mark.parametrize("name", CONFIGS)
def test_header_says_how_to_launch_it(name):
    head = CONFIGS[name].read_text().split("distributed_type")[0].splitlines()
    assert all(line.startswith("#") for line in head)
    assert any(f"accelerate launch --config_file recipes/accelerate/{name}.yaml" in line for line in head)


def test_number_of_processes_on_the_command_line_wins():
    assert launch_arguments("fsdp2", "--num_processes", "4").num_processes == 4


@pytest.mark.parametrize(("name", "cpu"), [("cpu", "True"), ("one_gpu", "False")])
def test_single_process_environment(name, cpu):
    args = launch_arguments(name)
    assert not any([args.multi_gpu, args.use_fsdp, args.use_deepspeed])
    _, environment = prepare_simple_launcher_cmd_env(args)
    assert environment["ACCELERATE_USE_CPU"] == cpu
    assert environment["ACCELERATE_MIXED_PRECISION"] == EXPECTED[name][2]


@pytest.mark.parametrize("name", ["multi_cpu", "multi_gpu"])
def test_replicated_environment(name):
    args = launch_arguments(name)
    assert args.multi_gpu
    environment = prepare_multi_gpu_env(args)
    assert args.nproc_per_node == str(EXPECTED[name][1])
    assert environment["ACCELERATE_MIXED_PRECISION"] == EXPECTED[name][2]
    assert "ACCELERATE_USE_FSDP" not in environment


@pytest.fixture
def fsdp_environment():
    args = launch_arguments("fsdp2")
    assert args.use_fsdp
    environment = prepare_multi_gpu_env(args)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    with patch_environment(**environment):
        yield


@pytest.mark.usefixtures("fsdp_environment")
def test_fsdp_plugin():
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type == StateDictType.SHARDED_STATE_DICT
    assert plugin.cpu_ram_efficient_loading is True
    assert not isinstance(plugin.cpu_offload, CPUOffloadPolicy)
    assert not plugin.activation_checkpointing
    plugin.set_mixed_precision("bf16")
    assert plugin.mixed_precision_policy.param_dtype == torch.bfloat16


@pytest.mark.usefixtures("fsdp_environment")
@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        ("paper", ["encoder.layers.0", "encoder.layers.1"]),
        ("gpt2", ["transformer.h.0", "transformer.h.1"]),
        ("bert", ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"]),
        ("llama", ["model.layers.0", "model.layers.1"]),
    ],
)
def test_fsdp_finds_the_blocks(model, blocks):
    sizes = Sizes(vocab_size=16, num_labels=2, pad_token_id=0, max_length=8, hidden_size=8, num_layers=2)
    model = build_model("classification", model, "topk_sparse:k=3", sizes)
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_auto_wrap_policy(model)
    sharded = fsdp2_prepare_auto_wrap_policy(plugin, model)
    assert [name for name, module in model.named_modules() if sharded(module)] == blocks


def test_deepspeed_plugin():
    args = launch_arguments("deepspeed_zero3")
    assert args.use_deepspeed
    _, environment = prepare_deepspeed_cmd_env(args)
    with patch_environment(**environment):
        plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision("bf16")
    config = plugin.deepspeed_config
    assert plugin.zero3_init_flag
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "none"
    assert config["gradient_accumulation_steps"] == 1
    assert config["gradient_clipping"] == 0.5
    assert config["bf16"]["enabled"] is True


# ---- launched


@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("cpu", {}),
        # test_pretrain_recipe launches the recipe with it
        pytest.param("multi_cpu", {"ACCELERATE_USE_CPU": "true"}, marks=pytest.mark.slow),
    ],
)
def test_cpu_launch(tmp_path, name, environment):
    (tmp_path / "processes.py").write_text(PROCESSES)
    count = EXPECTED[name][1]
    assert launch(tmp_path / "processes.py", name, **environment) == [
        [rank, count, "cpu", "no"] for rank in range(count)
    ]


@pytest.mark.slow  # the recipe's own, in test_sharded_recipe, is not
def test_fsdp_launch_on_two_processes_equals_one():
    options = ["--num_processes", "2", "--mixed_precision", "no"]
    sharded = launch(__file__, "fsdp2", *options, ACCELERATE_USE_CPU="true")
    exact = torch.tensor(single_process(torch.float64))

    def error(losses):
        return ((torch.tensor(losses, dtype=torch.float64) - exact) / exact).abs().max().item()

    # Two processes add the same float32 numbers in another order, so they may be as far off as float32 itself.
    allowed = 4 * max(error(single_process(torch.float32)), torch.finfo(torch.float32).eps)
    assert error(sharded[0]) < allowed
    assert sharded[0] == sharded[1]
    assert sharded[0][-1] < sharded[0][0]


def tiny_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": LENGTH}
    config = LlamaConfig(vocab_size=32, num_attention_heads=2, num_key_value_heads=1, use_cache=False, **sizes)
    return AutoModelForCausalLM.from_config(config, attn_implementation="topk_sparse:k=3")


def batches():
    """Sequences that count in steps of 1 to 5, of which a few steps of training learn something."""
    stride = torch.randint(1, 6, (STEPS, BATCH, 1), generator=torch.Generator().manual_seed(1))
    return torch.arange(LENGTH) * stride % 32


def summed_loss(model, rows):
    logits = model(input_ids=rows).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")


def single_process(dtype):
    """Losses of the training that is launched, without Accelerate."""
    model = tiny_model().to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for rows in batches():
        loss = summed_loss(model, rows) / rows[:, 1:].numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def train_sharded(accelerator):
    # Accelerate shards on accelerators only, and on CPUs silently replicates.
    PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    model = tiny_model()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    losses = []
    for rows in batches():
        loss = summed_loss(model, rows[accelerator.process_index :: accelerator.num_processes])
        loss = loss / rows[:, 1:].numel()
        accelerator.backward(loss * accelerator.num_processes)
        accelerator.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach().double(), "sum").item())
    return losses


def main():
    accelerator = Accelerator()
    reports = gather_object([train_sharded(accelerator)])
    accelerator.print(RESULT + json.dumps(reports))
    accelerator.wait_for_everyone()  # a process that ends while the other still talks to it may abort
    accelerator.end_training()


if __name__ == "__main__":
    main()
