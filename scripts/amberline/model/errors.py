"""What this layer raises when a model folder, a setting or a machine is not what it has to be."""


class ModelError(Exception):
    """The model cannot be loaded, run or written as asked; the message says why, and the mend."""
