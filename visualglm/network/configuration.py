"""The sizes of the three networks, and the ids that give a prompt its structure.

In: keyword arguments, or the dictionary of a `config.json`. Out: `VisualGLMConfig`. Field names are upstream's
(`num_layers`, `inner_hidden_size`, `layernorm_epsilon`, `max_sequence_length`); transformers' names
(`num_hidden_layers`, `intermediate_size`, ...) are aliases. Defaults are those of VisualGLM-6B
(THUDM/visualglm-6b `config.json`). Knows nothing about tensors or files.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from transformers import PreTrainedConfig

from ..errors import ConfigurationError
from .configuration_limits import (
    CONFIG,
    LONGEST_PREFIX,
    check_crossing,
    check_ids,
    check_keys,
    check_size,
    check_sizes,
    shown,
)

RotaryFrequencies = Literal["half", "exact", "by_dtype"]


class VisionConfig(PreTrainedConfig):
    """EVA-CLIP ViT-g: pre-LN blocks over one class token and `(image_size / patch_size)**2` patches.

    `layernorm_epsilon` is that of the blocks; `ln_vision`, which ends the network, has its own
    (`output_layernorm_epsilon`: `nn.LayerNorm`'s default in upstream's `visual.py`).
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
    initializer_range: float = 0.02

    @property
    def num_positions(self) -> int:
        """The class token and the patches: 257 for 224 px in patches of 14."""
        return 1 + (self.image_size // self.patch_size) ** 2


class QFormerConfig(PreTrainedConfig):
    """BLIP-2's Q-Former: `num_queries` learned vectors that read the ViT's tokens by cross-attention.

    `cross_attention_layers` lists the layers that have it (every second one unless given).
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
    """The whole model; the fields of the language model (ChatGLM-6B v1) stand at the top level.

    `image_token_id` marks the picture's slots in `input_ids`; it is a row that the tokenizer never yields
    (`vocab_size - 1` unless given). `rotary_frequencies` says how the checkpoint's source rounded them: `half`
    (Hugging Face files: rounded to float16 whatever the compute dtype), `exact` (float32), `by_dtype` (sat: rounded
    to the compute dtype). `image_length` slots belong to each picture. `prefix_length` virtual tokens of P-tuning v2
    are in every block's attention (`prefix_tuning.py`); 0 in a model that was not tuned so.
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
        "transformer.word_embeddings": "embedding_rowwise",  # as lm_head, which may be tied to it, is split
        "transformer.layers.*.attention.query_key_value": "colwise",
        "transformer.layers.*.attention.dense": "rowwise",
        "transformer.layers.*.mlp.dense_h_to_4h": "colwise",
        "transformer.layers.*.mlp.dense_4h_to_h": "rowwise",
        "lm_head": "colwise_gather_output",
    }
    base_model_fsdp_plan = {
        "transformer.word_embeddings": "free_full_weight",
        "transformer.layers.*": "free_full_weight",
        "transformer.final_layernorm": "keep_full_weight",
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
        """Raises `ConfigurationError` where two fields contradict each other."""
        vision, qformer = self.vision, self.qformer
        check_sizes("", self, halves=4)  # a head is two halves, each rotated in two parts
        check_sizes("vision_config.", vision)
        check_sizes("qformer_config.", qformer)
        if self.rotary_frequencies not in get_args(RotaryFrequencies):
            raise ConfigurationError(
                f"rotary_frequencies is {self.rotary_frequencies!r}: it says how the checkpoint's source rounded its "
                f"rotary frequencies, so write one of {', '.join(get_args(RotaryFrequencies))}."
            )
        if type(self.prefix_length) is not int or not 0 <= self.prefix_length <= LONGEST_PREFIX:
            raise ConfigurationError(
                f"prefix_length is {shown(self.prefix_length)}: write a whole number from 0 to {LONGEST_PREFIX}."
            )
        check_ids(self)
        check_crossing(qformer)
        if qformer.num_queries != self.image_length:
            raise ConfigurationError(
                f"qformer_config.num_queries is {qformer.num_queries} but image_length is {self.image_length}: "
                "each query fills one image slot, so make them equal."
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
        """A folder's or hub repository's `config.json`. transformers would take all defaults where there is none.

        Raises:
            ConfigurationError: there is none, as in a sat folder, or it is that of another model.
        """
        from ..files.config_json import check_files  # here alone, so that the network itself knows no files

        check_files(pretrained_model_name_or_path, subfolder=kwargs.get("subfolder") or "")
        stored, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if stored.get("model_type") not in (cls.model_type, ChatGLMConfig.model_type):
            raise ConfigurationError(
                f"{pretrained_model_name_or_path} has no config.json of VisualGLM (model_type visualglm or chatglm): a "
                "sat folder is opened by visualglm.load or the model's from_pretrained, or converted by `convert`."
            )
        return stored, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Our dictionary or upstream's (`model_type: chatglm`) -> configuration, as transformers does it.

        Raises:
            ConfigurationError: the dictionary is that of another model, or contradicts itself.
        """
        try:
            if config_dict.get("model_type") == ChatGLMConfig.model_type:
                config_dict = _in_our_words(config_dict)
            check_keys(cls, config_dict)
            return super().from_dict(config_dict, **kwargs)
        except ConfigurationError:
            raise
        except Exception as error:  # a value of a wrong kind fails in every way there is
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(" .")
            raise ConfigurationError(f"the configuration makes no sense ({reason}): get {CONFIG} again.") from error

    @property
    def vision(self) -> VisionConfig:
        """`vision_config`, typed."""
        assert isinstance(self.vision_config, VisionConfig)
        return self.vision_config

    @property
    def qformer(self) -> QFormerConfig:
        """`qformer_config`, typed."""
        assert isinstance(self.qformer_config, QFormerConfig)
        return self.qformer_config


def _as_config(kind: type[Any], value: Any) -> Any:
    if value is None:
        return kind()
    if not isinstance(value, (kind, dict)):
        raise ConfigurationError(f"{kind.base_config_key} is {shown(value)}: write an object with names and values.")
    return value if isinstance(value, kind) else kind(**value)


class ChatGLMConfig(PreTrainedConfig):
    """Reader of upstream's `config.json` (`model_type: chatglm`): its `from_dict` returns a `VisualGLMConfig`.

    ChatGLM2/3 share that model type, and so does the text-only ChatGLM-6B; both are refused. Keys that are not ours
    are kept; `auto_map`, which points at code to download, is dropped. Source: upstream `configuration_chatglm.py`.
    """

    model_type = "chatglm"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Upstream's dictionary -> `VisualGLMConfig` (and unused keyword arguments, as transformers does).

        Raises:
            ConfigurationError: the dictionary is that of another model.
        """
        return VisualGLMConfig.from_dict({**config_dict, "model_type": cls.model_type}, **kwargs)


NEWER_CHATGLM = ("multi_query_attention", "padded_vocab_size", "kv_channels", "ffn_hidden_size")
SATS_EPSILON = 1e-5  # sat's default where the file names none; the 6B's files name theirs
UPSTREAMS_OWN = ("model_type", "architectures", "auto_map", "_name_or_path", "transformers_version")


def _in_our_words(upstream: dict[str, Any]) -> dict[str, Any]:
    found = [key for key in NEWER_CHATGLM if key in upstream]
    if found:
        raise ConfigurationError(
            f"this is a ChatGLM2 or ChatGLM3 checkpoint (its configuration has {', '.join(found)}): it is another "
            "architecture and has no eyes, so give THUDM/visualglm-6b's files."
        )
    if not isinstance(upstream.get("eva_config"), dict) or not isinstance(upstream.get("qformer_config"), dict):
        raise ConfigurationError(
            "this is a text-only ChatGLM-6B checkpoint (its configuration has no eva_config and qformer_config): "
            "VisualGLM needs the files with the image encoder, THUDM/visualglm-6b's."
        )
    if not upstream.get("position_encoding_2d", True):
        raise ConfigurationError(
            "position_encoding_2d is false in the configuration: VisualGLM has two channels, so set it to true."
        )
    ours = {key: value for key, value in upstream.items() if key not in (*UPSTREAMS_OWN, "eva_config")}
    ours["vision_config"] = _vision_in_our_words(upstream["eva_config"])
    ours["qformer_config"] = _qformer_in_our_words(upstream["qformer_config"])
    return ours


def _vision_in_our_words(eva: dict[str, Any]) -> dict[str, Any]:
    size = eva.get("image_size", VisionConfig.image_size)
    sides = list(size) if isinstance(size, (list, tuple)) else [size]
    if len(set(sides)) != 1:
        raise ConfigurationError(f"eva_config.image_size is {size}: the ViT reads square pictures, so make both equal.")
    hidden_size = eva.get("hidden_size", VisionConfig.hidden_size)
    defaults = {"inner_hidden_size": 4 * hidden_size, "layernorm_epsilon": SATS_EPSILON}
    return {**defaults, **eva, "image_size": sides[0]}


def _qformer_in_our_words(qformer: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in qformer.items() if key not in ("is_decoder", "vocab_size")}
    ours = {"layernorm_epsilon": SATS_EPSILON, **own}
    crossing = qformer.get("is_decoder", False)
    if not isinstance(crossing, list):  # sat also takes one flag for all layers
        layers = qformer.get("num_layers", QFormerConfig.num_layers)
        check_size("qformer_config.", "num_layers", layers)
        crossing = [crossing] * layers
    ours["cross_attention_layers"] = [index for index, crosses in enumerate(crossing) if crosses]
    if "vocab_size" in qformer:
        ours["num_queries"] = qformer["vocab_size"]
    return ours
