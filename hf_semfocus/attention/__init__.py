"""One attention problem: its tensors, who may see whom, and where every query stands."""
