"""The commands of the embedded world: demo and pretrain-world."""
