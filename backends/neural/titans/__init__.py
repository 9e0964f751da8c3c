"""Titans (https://arxiv.org/abs/2501.00663) as Hugging Face language models.

    from memagent.backends.neural.titans import TitansConfig, TitansForCausalLM

    model = TitansForCausalLM(TitansConfig(variant="mag"))

Importing this package registers the model type ``titans``, so that ``AutoModelForCausalLM.from_pretrained`` loads it.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from memagent.backends.neural.titans.cache import TitansCache
from memagent.backends.neural.titans.config import TitansConfig
from memagent.backends.neural.titans.model import TitansForCausalLM, TitansModel

__all__ = ["TitansCache", "TitansConfig", "TitansForCausalLM", "TitansModel"]

AutoConfig.register(TitansConfig.model_type, TitansConfig)
AutoModel.register(TitansConfig, TitansModel)
AutoModelForCausalLM.register(TitansConfig, TitansForCausalLM)
