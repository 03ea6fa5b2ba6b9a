"""Configuration of the three networks and of structural token ids.

In: keyword arguments, or the dictionary of a `config.json`. Out: `VisualGLMConfig`. Field names are upstream's
(`num_layers`, `inner_hidden_size`, `layernorm_epsilon`, `max_sequence_length`); transformers' names
(`num_hidden_layers`, `intermediate_size`, ...) are aliases. Defaults are those of VisualGLM-6B
(THUDM/visualglm-6b `config.json`).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from transformers import PreTrainedConfig

from ..errors import ConfigurationError
from .configuration_checks import (
    CONFIG,
    LONGEST_PREFIX,
    check_crossing,
    check_ids,
    check_keys,
    check_size,
    check_sizes,
    check_stem,
    shown,
)

RotaryFrequencies = Literal["half", "exact", "by_dtype"]


class VisionConfig(PreTrainedConfig):
    """Configuration of EVA-CLIP ViT-g: pre-LN blocks over one class token and `(image_size / patch_size)**2` patches.

    `layernorm_epsilon` is used in the blocks, `output_layernorm_epsilon` in the final norm `ln_vision`
    (`nn.LayerNorm`'s default in upstream's `visual.py`). `stem` names a convolutional network whose features are added
    to the patches and to the class token (`stem.py`), and `concepts` is the number of things that a head names by its
    pooled features; the 6B has neither.
    """

    model_type = "visualglm_vision"
    base_config_key = "vision_config"
    attribute_map = {
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "layer_norm_eps": "layernorm_epsilon",
        "num_channels": "in_channels",
    }

    num_layers: int = 39
    hidden_size: int = 1408
    num_attention_heads: int = 16
    inner_hidden_size: int = 6144
    layernorm_epsilon: float = 1e-6
    output_layernorm_epsilon: float = 1e-5
    image_size: int = 224
    patch_size: int = 14
    in_channels: int = 3
    stem: str | None = None
    concepts: int = 0
    initializer_range: float = 0.02

    @property
    def num_positions(self) -> int:
        """Number of tokens, one for the class and one per patch: 257 for 224 px in patches of 14."""
        return 1 + (self.image_size // self.patch_size) ** 2


class QFormerConfig(PreTrainedConfig):
    """Configuration of BLIP-2's Q-Former: `num_queries` learned vectors that cross-attend to the ViT's tokens.

    `cross_attention_layers` lists the indices of the layers with cross-attention (default: every second one).
    """

    model_type = "visualglm_qformer"
    base_config_key = "qformer_config"
    attribute_map = {
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "layer_norm_eps": "layernorm_epsilon",
    }

    num_layers: int = 12
    hidden_size: int = 768
    num_attention_heads: int = 12
    inner_hidden_size: int | None = None
    cross_attn_hidden_size: int = 1408
    cross_attention_layers: list[int] | None = None
    num_queries: int = 32
    layernorm_epsilon: float = 1e-12
    initializer_range: float = 0.02
    query_initializer_range: float = 1.0  # at 0.02 queries trained from scratch collapse into one vector

    def __post_init__(self, **kwargs: Any) -> None:
        check_size("qformer_config.", "num_layers", self.num_layers)
        if self.inner_hidden_size is None:
            self.inner_hidden_size = 4 * self.hidden_size
        if self.cross_attention_layers is None:
            self.cross_attention_layers = list(range(0, self.num_layers, 2))
        super().__post_init__(**kwargs)


class VisualGLMConfig(PreTrainedConfig):
    """Configuration of the whole model; the fields of the language model (ChatGLM-6B v1) are at the top level.

    Attributes:
        image_token_id: the placeholder token of images in `input_ids`, an id that the tokenizer never produces (default
            `vocab_size - 1`).
        image_length: placeholder tokens per image.
        rotary_frequencies: rounding of the rotary frequencies in the checkpoint's source: `half` (Hugging Face files:
            float16 for any compute dtype), `exact` (float32) or `by_dtype` (sat: the compute dtype).
        prefix_length: virtual tokens of P-tuning v2 in every block (`prefix_tuning.py`), 0 without it.
    """

    model_type = "visualglm"
    sub_configs = {"vision_config": VisionConfig, "qformer_config": QFormerConfig}
    keys_to_ignore_at_inference = ["past_key_values"]
    attribute_map = {
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "layer_norm_eps": "layernorm_epsilon",
        "max_position_embeddings": "max_sequence_length",
    }
    base_model_tp_plan = {
        "word_embeddings": "embedding_rowwise",  # must split like lm_head, which may be tied to it
        "layers.*.attention.query_key_value": "colwise",
        "layers.*.attention.dense": "rowwise",
        "layers.*.mlp.dense_h_to_4h": "colwise",
        "layers.*.mlp.dense_4h_to_h": "rowwise",
    }
    base_model_fsdp_plan = {
        "word_embeddings": "free_full_weight",
        "layers.*": "free_full_weight",
        "final_layernorm": "keep_full_weight",
    }

    vocab_size: int = 130528
    num_layers: int = 28
    hidden_size: int = 4096
    num_attention_heads: int = 32
    inner_hidden_size: int = 16384
    layernorm_epsilon: float = 1e-5
    max_sequence_length: int = 2048
    image_length: int = 32
    image_token_id: int | None = None
    rotary_frequencies: RotaryFrequencies = "half"
    prefix_length: int = 0
    vision_config: VisionConfig | dict[str, Any] | None = None
    qformer_config: QFormerConfig | dict[str, Any] | None = None
    unk_token_id: int = 0
    pad_token_id: int = 3
    mask_token_id: int = 130000
    gmask_token_id: int = 130001
    bos_token_id: int = 130004
    eos_token_id: int = 130005
    tie_word_embeddings: bool = False
    use_cache: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        check_size("", "vocab_size", self.vocab_size)
        if self.image_token_id is None:
            self.image_token_id = self.vocab_size - 1
        self.vision_config = _as_config(VisionConfig, self.vision_config)
        self.qformer_config = _as_config(QFormerConfig, self.qformer_config)
        super().__post_init__(**kwargs)
        self._check()

    def _check(self) -> None:
        """Raise `ConfigurationError` if a field is out of range or two fields contradict each other."""
        vision, qformer = self.vision, self.qformer
        check_sizes("", self, halves=4)  # rotary embedding splits a head into two halves, and each into two parts
        check_sizes("vision_config.", vision)
        check_sizes("qformer_config.", qformer)
        if self.rotary_frequencies not in get_args(RotaryFrequencies):
            raise ConfigurationError(
                f"rotary_frequencies is {self.rotary_frequencies!r}, which is not a known rounding of rotary "
                f"frequencies. Write one of {', '.join(get_args(RotaryFrequencies))}."
            )
        if type(self.prefix_length) is not int or not 0 <= self.prefix_length <= LONGEST_PREFIX:
            raise ConfigurationError(
                f"prefix_length is {shown(self.prefix_length)}. Write a whole number from 0 to {LONGEST_PREFIX}."
            )
        check_ids(self)
        check_stem(vision, self.image_length)
        check_crossing(qformer)
        if qformer.num_queries != self.image_length:
            raise ConfigurationError(
                f"qformer_config.num_queries is {qformer.num_queries} but image_length is {self.image_length}: "
                "each query fills one image placeholder token, so make them equal."
            )
        if qformer.cross_attn_hidden_size != vision.hidden_size:
            raise ConfigurationError(
                f"qformer_config.cross_attn_hidden_size is {qformer.cross_attn_hidden_size} but the ViT's hidden_size "
                f"is {vision.hidden_size}: the Q-Former reads the ViT's tokens, so make them equal."
            )

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read `config.json` of a folder or hub repository; transformers alone would use defaults if there is none.

        Raises:
            ConfigurationError: there is no `config.json`, as in a sat folder, or it is that of another model.
        """
        from ..files.json_object import check_files  # imported here, so that importing the network imports no file code

        check_files(pretrained_model_name_or_path, subfolder=kwargs.get("subfolder") or "")
        stored, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if stored.get("model_type") not in (cls.model_type, ChatGLMConfig.model_type):
            raise ConfigurationError(
                f"{pretrained_model_name_or_path} has no config.json of VisualGLM (model_type visualglm or chatglm). "
                "Open a sat folder with visualglm.load or the model's from_pretrained, or convert it with `convert`."
            )
        return stored, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from our dictionary or upstream's (`model_type: chatglm`).

        Raises:
            ConfigurationError: the dictionary is that of another model, or invalid.
        """
        try:
            if config_dict.get("model_type") == ChatGLMConfig.model_type:
                config_dict = _translate_upstream(config_dict)
            check_keys(cls, config_dict)
            return super().from_dict(config_dict, **kwargs)
        except ConfigurationError:
            raise
        except Exception as error:  # a value of a wrong type may raise any exception inside transformers
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(" .")
            raise ConfigurationError(f"The configuration is invalid ({reason}). Get {CONFIG} again.") from error

    @property
    def vision(self) -> VisionConfig:
        """`vision_config` with its type."""
        assert isinstance(self.vision_config, VisionConfig)
        return self.vision_config

    @property
    def qformer(self) -> QFormerConfig:
        """`qformer_config` with its type."""
        assert isinstance(self.qformer_config, QFormerConfig)
        return self.qformer_config


def _as_config(kind: type[Any], value: Any) -> Any:
    if value is None:
        return kind()
    if not isinstance(value, (kind, dict)):
        raise ConfigurationError(f"{kind.base_config_key} is {shown(value)}. Write an object with names and values.")
    return value if isinstance(value, kind) else kind(**value)


class ChatGLMConfig(PreTrainedConfig):
    """Reader of upstream's `config.json` (`model_type: chatglm`); its `from_dict` returns a `VisualGLMConfig`.

    ChatGLM2/3 and the text-only ChatGLM-6B have the same model type; both are rejected. Unknown keys are kept, except
    `auto_map`, which points to code to download. Source: upstream `configuration_chatglm.py`.
    """

    model_type = "chatglm"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Upstream's dictionary -> `VisualGLMConfig` (and unused keyword arguments, as in transformers).

        Raises:
            ConfigurationError: the dictionary is that of another model.
        """
        return VisualGLMConfig.from_dict({**config_dict, "model_type": cls.model_type}, **kwargs)


NEWER_CHATGLM = ("multi_query_attention", "padded_vocab_size", "kv_channels", "ffn_hidden_size")
SAT_EPSILON = 1e-5  # sat's default for files without an epsilon; the 6B's files have one
UPSTREAM_ONLY_KEYS = ("model_type", "architectures", "auto_map", "_name_or_path", "transformers_version")


def _translate_upstream(upstream: dict[str, Any]) -> dict[str, Any]:
    """Upstream's configuration -> our keys.

    Raises:
        ConfigurationError: it is ChatGLM2/3, the text-only ChatGLM-6B, or has 1-D positions.
    """
    found = [key for key in NEWER_CHATGLM if key in upstream]
    if found:
        raise ConfigurationError(
            f"This is a ChatGLM2 or ChatGLM3 checkpoint (its configuration has {', '.join(found)}), another "
            "architecture without an image encoder. Use zai-org/visualglm-6b's files."
        )
    if not isinstance(upstream.get("eva_config"), dict) or not isinstance(upstream.get("qformer_config"), dict):
        raise ConfigurationError(
            "This is a text-only ChatGLM-6B checkpoint (its configuration has no eva_config and qformer_config). "
            "VisualGLM needs an image encoder. Use zai-org/visualglm-6b's files."
        )
    if not upstream.get("position_encoding_2d", True):
        raise ConfigurationError(
            "position_encoding_2d is false in the configuration. VisualGLM has two position channels. Set it to true."
        )
    ours = {key: value for key, value in upstream.items() if key not in (*UPSTREAM_ONLY_KEYS, "eva_config")}
    ours["vision_config"] = _translate_vision(upstream["eva_config"])
    ours["qformer_config"] = _translate_qformer(upstream["qformer_config"])
    return ours


def _translate_vision(eva: dict[str, Any]) -> dict[str, Any]:
    size = eva.get("image_size", VisionConfig.image_size)
    sides = list(size) if isinstance(size, (list, tuple)) else [size]
    if len(set(sides)) != 1:
        raise ConfigurationError(f"eva_config.image_size is {size}. The ViT needs square images. Make both equal.")
    hidden_size = eva.get("hidden_size", VisionConfig.hidden_size)
    defaults = {"inner_hidden_size": 4 * hidden_size, "layernorm_epsilon": SAT_EPSILON}
    return {**defaults, **eva, "image_size": sides[0]}


def _translate_qformer(qformer: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in qformer.items() if key not in ("is_decoder", "vocab_size")}
    ours = {"layernorm_epsilon": SAT_EPSILON, **own}
    crossing = qformer.get("is_decoder", False)
    if not isinstance(crossing, list):  # sat also accepts one flag for all layers
        layers = qformer.get("num_layers", QFormerConfig.num_layers)
        check_size("qformer_config.", "num_layers", layers)
        crossing = [crossing] * layers
    ours["cross_attention_layers"] = [index for index, crosses in enumerate(crossing) if crosses]
    if "vocab_size" in qformer:
        ours["num_queries"] = qformer["vocab_size"]
    return ours
