"""What happens to checkpoints between their training and their use: each a change of a folder's tensors or files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]
Damage = Callable[[Path], None]
MODEL, ADAPTER = "model.safetensors", "adapter_model.safetensors"
DROPPED = "model.layers.1.mlp.up_proj.weight"
_LORA = "base_model.model.model.layers.1.self_attn.q_proj.lora_"


def weights(change: Callable[[Weights], Mapping[str, Tensor]], file: str = MODEL) -> Damage:
    def damage(folder: Path) -> None:
        changed = change(load_file(folder / file))
        save_file({name: values.clone() for name, values in changed.items()}, folder / file, metadata={"format": "pt"})

    return damage


def renamed(rename: Callable[[str], str], file: str = MODEL) -> Damage:
    return weights(lambda tensors: {rename(name): values for name, values in tensors.items()}, file)


def without(*parts: str, file: str = MODEL) -> Damage:
    return weights(lambda tensors: {k: v for k, v in tensors.items() if not any(part in k for part in parts)}, file)


def settings(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))

    return damage


def pickled(file: str, pickle: str) -> Damage:
    def damage(folder: Path) -> None:
        torch.save(load_file(folder / file), folder / pickle)
        (folder / file).unlink()

    return damage


def _sharded(folder: Path, *, lost: str = "") -> None:
    tensors = load_file(folder / MODEL)
    (folder / MODEL).unlink()
    place = {name: f"model-0000{1 + ('layers.1' in name)}-of-00002.safetensors" for name in tensors}
    for file in set(place.values()):
        part = {name: values for name, values in tensors.items() if place[name] == file and name != lost}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / f"{MODEL}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))


def _float8(tensors: Weights) -> Weights:
    return {name: v.to(torch.float8_e4m3fn) if v.dim() > 1 else v for name, v in tensors.items()}


def _buffers(tensors: Weights) -> Weights:
    return {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}


def _compiled_layers(name: str) -> str:
    return name.replace("layers.0.", "layers.0._orig_mod.")


# Folders that are the same model under other names or in other files.
HARMLESS_TO_MODELS: dict[str, Damage] = {
    "module. before the names": renamed(lambda name: f"module.{name}"),
    "_orig_mod. before the names": renamed(lambda name: f"_orig_mod.{name}"),
    "both, one inside the other": renamed(lambda name: f"module._orig_mod.{_compiled_layers(name)}"),
    "single layers compiled": renamed(_compiled_layers),
    "module. before some names": renamed(lambda name: f"module.{name}" if "layers" in name else name),
    "names of a multimodal model": renamed(lambda name: name.replace("model.", "model.language_model.", 1)),
    "older names of a multimodal model": renamed(lambda name: f"language_model.{name}"),
    "rotary buffers": weights(_buffers),
    "the tied embedding stored twice": weights(lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"]}),
    "shards": _sharded,
}
# Folders that are not the whole model, and what is said of them.
HARMFUL_TO_MODELS: dict[str, tuple[Damage, str]] = {
    "a tensor dropped": (without(DROPPED), rf"lacks {DROPPED}; save or fetch it again"),
    "a tensor too many": (
        weights(lambda t: {**t, "model.layers.0.mlp.extra.weight": torch.ones(2, 2)}),
        r"holds model\.layers\.0\.mlp\.extra\.weight, which its config\.json does not ask for",
    ),
    "another prefix": (
        renamed(lambda name: f"student.{name}"),
        r"lacks model\.embed_tokens\.weight and \d+ more and holds student\.model\.embed_tokens\.weight and \d+ more",
    ),
    "no prefix": (renamed(lambda name: name.removeprefix("model.")), r"lacks model\.embed_tokens\.weight and \d+ more"),
    "a layer too many": (
        weights(lambda t: {**t, **{k.replace("layers.1", "layers.2"): v for k, v in t.items()}}),
        r"holds model\.layers\.2\..* and 12 more",
    ),
    "one tensor under two names": (
        weights(lambda t: {**t, f"module.{DROPPED}": t[DROPPED]}),
        rf"{DROPPED} is in the checkpoint under two names",
    ),
    "another shape": (weights(lambda t: {**t, DROPPED: t[DROPPED][:-1]}), rf"{DROPPED} of shape \(127, 64\) where"),
    "a tensor lost from a shard": (lambda folder: _sharded(folder, lost=DROPPED), f"lacks {DROPPED}"),
    "a pickle": (pickled(MODEL, "pytorch_model.bin"), r"no model\.safetensors, only 'pytorch_model\.bin': a pickle"),
    "a pickle of another name": (pickled(MODEL, "student.pt"), r"only 'student\.pt': a pickle"),
    "float8": (weights(_float8), r"stores '.*' in float8 \('F8_E4M3'\), which is not read here"),
}
HARMLESS_TO_ADAPTERS: dict[str, Damage] = {
    "module. before the names": renamed(lambda name: f"module.{name}", ADAPTER),
    "of a compiled base": renamed(lambda n: n.replace("base_model.model.", "base_model.model._orig_mod."), ADAPTER),
    "names of a multimodal model": renamed(lambda n: n.replace("model.layers", "model.language_model.layers"), ADAPTER),
    "older names of a multimodal model": renamed(
        lambda n: n.replace("model.layers", "language_model.model.layers"), ADAPTER
    ),
}
HARMFUL_TO_ADAPTERS: dict[str, tuple[Damage, str]] = {
    "a module dropped": (
        without("layers.1.self_attn.q_proj", file=ADAPTER),
        r"lacks the LoRA matrices of 1 of the 4 modules that its target_modules name, model\.layers\.1\.self_attn\.q",
    ),
    "a layer dropped": (without("layers.0", file=ADAPTER), "of 2 of the 4 modules"),
    "lora_B dropped": (
        without(f"{_LORA}B", file=ADAPTER),
        r"has lora_A\.weight of model\.layers\.1\.self_attn\.q_proj where a pair belongs",
    ),
    "lora_A dropped": (without(f"{_LORA}A", file=ADAPTER), r"has lora_B\.weight of .* where a pair belongs"),
    "nothing left": (without("lora", file=ADAPTER), "holds no LoRA matrix"),
    "a layer too many": (
        weights(lambda t: {**t, **{k.replace("layers.1", "layers.2"): v for k, v in t.items()}}, ADAPTER),
        r"layers\.2",
    ),
    "modules that are not asked for": (settings(target_modules=["q_proj"]), r"changes model\.layers\.0\.mlp\.up_proj"),
    "another prefix": (renamed(lambda n: n.replace("model.layers", "student.layers"), ADAPTER), "student"),
    "the adapter's name in the names": (
        renamed(lambda n: n.replace(".weight", ".default.weight"), ADAPTER),
        r"lora|LoRA",
    ),
    "a pickle": (pickled(ADAPTER, "adapter_model.bin"), r"only 'adapter_model\.bin': a pickle"),
    "float8": (weights(_float8, ADAPTER), "in float8"),
    "another base's shape": (
        weights(lambda t: {k: v[:, :-1] if "lora_A" in k else v for k, v in t.items()}, ADAPTER),
        r"has LoRA matrices of model\.layers\.0\.mlp\.up_proj in the shapes \(4, 63\) and \(128, 4\)",
    ),
    "no kind": (settings(peft_type=None), "has no peft_type"),
}
