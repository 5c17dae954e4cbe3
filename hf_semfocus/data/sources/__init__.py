"""Where text comes from: what the package ships, files, and datasets of the Hugging Face Hub."""
