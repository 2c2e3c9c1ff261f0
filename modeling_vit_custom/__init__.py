# Copyright 2026 The modeling_vit_custom authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The Vision Transformer family for Hugging Face transformers. Importing this registers it with the Auto classes."""

from transformers import AutoBackbone
from transformers import AutoConfig
from transformers import AutoModel
from transformers import AutoModelForImageClassification
from transformers import AutoModelForMaskedImageModeling
from transformers import AutoModelForObjectDetection
from transformers import AutoModelForPreTraining
from transformers import AutoModelForSemanticSegmentation
from transformers import AutoModelForZeroShotImageClassification

from .configuration_dual_encoder import ViTCustomDualEncoderConfig
from .configuration_presets import list_presets
from .configuration_vit_custom import ViTCustomConfig
from .modeling_detection import ViTCustomForObjectDetection
from .modeling_dual_encoder import ViTCustomDualEncoder
from .modeling_masked import ViTCustomForMaskedImageModeling
from .modeling_masked import ViTCustomForPreTraining
from .modeling_segmentation import ViTCustomForSemanticSegmentation
from .modeling_vit_custom import ViTCustomBackbone
from .modeling_vit_custom import ViTCustomForImageClassification
from .modeling_vit_custom import ViTCustomModel
from .modeling_vit_custom import ViTCustomPreTrainedModel

__version__ = "0.2.0"

AutoConfig.register(ViTCustomConfig.model_type, ViTCustomConfig, exist_ok=True)
AutoConfig.register(ViTCustomDualEncoderConfig.model_type, ViTCustomDualEncoderConfig, exist_ok=True)
for auto_class, model_class in (
    (AutoModel, ViTCustomModel),
    (AutoBackbone, ViTCustomBackbone),
    (AutoModelForImageClassification, ViTCustomForImageClassification),
    (AutoModelForMaskedImageModeling, ViTCustomForMaskedImageModeling),
    (AutoModelForPreTraining, ViTCustomForPreTraining),
    (AutoModelForSemanticSegmentation, ViTCustomForSemanticSegmentation),
    (AutoModelForObjectDetection, ViTCustomForObjectDetection),
    (AutoModel, ViTCustomDualEncoder),
    (AutoModelForZeroShotImageClassification, ViTCustomDualEncoder),
):
    auto_class.register(model_class.config_class, model_class, exist_ok=True)

__all__ = [
    "ViTCustomBackbone",
    "ViTCustomConfig",
    "ViTCustomDualEncoder",
    "ViTCustomDualEncoderConfig",
    "ViTCustomForImageClassification",
    "ViTCustomForMaskedImageModeling",
    "ViTCustomForObjectDetection",
    "ViTCustomForPreTraining",
    "ViTCustomForSemanticSegmentation",
    "ViTCustomModel",
    "ViTCustomPreTrainedModel",
    "list_presets",
]
