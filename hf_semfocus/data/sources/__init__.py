"""Where text comes from: what the package ships, files, and data sets of the Hugging Face Hub."""
