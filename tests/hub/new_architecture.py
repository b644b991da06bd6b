"""An architecture that transformers does not have, as a model's folder brings its own: a test acquires and trains it.

A Llama whose attention goes through transformers' interface, as that of any model has to: what is given to the base
model by name reaches the attention function.
"""

from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel


class OwnConfig(LlamaConfig):
    model_type = "of_my_own"


class OwnModel(LlamaModel):
    config_class = OwnConfig


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
