"""One attention problem: its tensors, the visible keys, and positions."""
