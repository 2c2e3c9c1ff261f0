"""A model as small as one can be that ships its own code and does all that transformers asks for."""

from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_toy import ToyConfig
from .layers_toy import ToyLayer


class ToyPreTrainedModel(PreTrainedModel):
    config: ToyConfig
    config_class = ToyConfig
    base_model_prefix = "toy"
    main_input_name = "pixel_values"

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ToyLayer):
            init.normal_(module.shift, std=self.config.initializer_range)


class ToyModel(ToyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Linear(config.num_channels, config.hidden_size)
        self.layer = ToyLayer(config)
        self.post_init()

    def forward(self, pixel_values, **kwargs):
        return BaseModelOutput(last_hidden_state=self.layer(self.embed(pixel_values.mean((2, 3)))))


class ToyForImageClassification(ToyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.toy = ToyModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, **kwargs):
        return ImageClassifierOutput(logits=self.classifier(self.toy(pixel_values).last_hidden_state))
