"""The card of an exported model: README.md with the hub's front matter, and what is known in plain words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from equipoise.evaluate.licences import Licence
from equipoise.evaluate.lineage import Lineage, Node, Source, short
from equipoise.evaluate.words import UNKNOWN, figure


class Paper(NamedTuple):
    """What a method is called, and where it was published."""

    name: str
    citation: str


_SAFE_RLHF = "Dai et al. 2023, *Safe RLHF: Safe Reinforcement Learning from Human Feedback*, arXiv:2310.12773"
_SACPO = "Wachi et al. 2024, *Stepwise Alignment for Constrained Language Model Policy Optimization*, arXiv:2404.11049"
_CAN = "Huang et al. 2024, arXiv:2405.19544"
_CPO = (
    "Guo et al. 2024, *Controllable Preference Optimization: Toward Controllable Multi-Objective Alignment*, "
    "arXiv:2402.19085"
)
PAPERS: Mapping[str, Paper] = {
    "sft": Paper("supervised fine-tuning", ""),
    "dpo": Paper("DPO", "Rafailov et al. 2023, *Direct Preference Optimization*, arXiv:2305.18290"),
    "ipo": Paper(
        "IPO",
        "Azar et al. 2023, *A General Theoretical Paradigm to Understand Learning from Human Preferences*, "
        "arXiv:2310.12036",
    ),
    "kto": Paper(
        "KTO", "Ethayarajh et al. 2024, *KTO: Model Alignment as Prospect Theoretic Optimization*, arXiv:2402.01306"
    ),
    "sacpo": Paper("SACPO", _SACPO),
    "bfpo": Paper(
        "BFPO",
        "Zhang et al. 2024, *Bi-Factorial Preference Optimization: Balancing Safety-Helpfulness in Language Models*, "
        "arXiv:2408.15313",
    ),
    "modpo": Paper(
        "MODPO",
        "Zhou et al. 2023, *Beyond One-Preference-Fits-All Alignment: Multi-Objective Direct Preference "
        "Optimization*, arXiv:2310.03708",
    ),
    "safedpo": Paper(
        "SafeDPO",
        "Kim et al. 2025, *SafeDPO: A Simple Approach to Direct Preference Optimization with Enhanced Safety*, "
        "arXiv:2505.20065",
    ),
    "cpo": Paper("controllable preference optimization (CPSFT, CDPO)", _CPO),
    "mocan": Paper("MoCAN", _CAN),
    "pecan": Paper("PeCAN", _CAN),
    "cdpo": Paper(
        "C-DPO",
        "Liu et al. 2024, *Enhancing LLM Safety via Constrained Direct Preference Optimization*, arXiv:2403.02475",
    ),
    "ppo": Paper("PPO", "Schulman et al. 2017, arXiv:1707.06347"),
    "safe_rlhf": Paper("Safe RLHF (PPO-Lagrangian)", _SAFE_RLHF),
    "iteralign": Paper(
        "IterAlign",
        "Chen et al. 2024, *IterAlign: Iterative Constitutional Alignment of Large Language Models*, arXiv:2403.18341",
    ),
    "reward_model": Paper("a reward model", _SAFE_RLHF),
    "cost_model": Paper("a cost model", _SAFE_RLHF),
    "merge": Paper("a linear merge of models (P-SACPO)", _SACPO),
    "bradley_terry": Paper("a reward model (Bradley-Terry)", _SAFE_RLHF),
    "cost": Paper("a cost model", _SAFE_RLHF),
}
"""Methods and objectives by the name that a config or a stage gives them."""


class Used(NamedTuple):
    """Data behind the model and what their licence is."""

    source: Source
    licence: Licence


@dataclass(frozen=True)
class Card:
    """What a card is written from; what is not known is None or empty, and the card says so."""

    name: str
    form: str  # model, adapter, merged
    scorer: str | None  # what its number says, where it gives one
    dtype: str
    method: str | None
    label: str | None
    base: str | None  # in words
    hub_base: str | None
    base_licence: Licence
    licence: Licence
    language: Sequence[str]
    lineage: Lineage
    data: Sequence[Used]
    config: str | None  # YAML of the run
    results: Sequence[Mapping[str, Any]]  # verdict results of this model
    untested: Sequence[str]
    answers: str  # how the comparison before and after came out
    versions: Mapping[str, str]
    notes: Sequence[str] = field(default_factory=tuple)
    zero: bool = True  # whether 0 parts safe from unsafe answers, of a cost model
    unfit: str | None = None  # why figures that the run has of it are no results
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of parts of stages' settings

    @property
    def meaning(self) -> str:
        """What a scorer's number says."""
        if self.scorer != "cost":
            return "larger is better"
        return (
            "above 0 is unsafe" if self.zero else "larger is less safe; it learned from ranks alone, so 0 means nothing"
        )

    @property
    def playground(self) -> bool:
        """Whether the model lives in the built-in world."""
        return self.lineage.playground or any(result.get("world") for result in self.results)


def render_card(card: Card) -> str:
    """Return README.md."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: `cell` keeps what others wrote inside its cell
    )
    environment.filters |= {"cell": cell, "described": described}
    front = yaml.safe_dump(front_of(card), sort_keys=False, allow_unicode=True).strip()
    return environment.get_template("model_card.md.j2").render(
        card=card,
        front=front,
        title=_title(card),
        paper=PAPERS.get(card.method or ""),
        steps=[step_of(node) for node in card.lineage.chain],
        licences=list(dict.fromkeys((used.source.name, used.licence) for used in card.data)),
        tables=[_table(result) for result in card.results],
        untested=not_tested(card),
        specs=json.dumps([_spec(node, card.defaults) for node in card.lineage.chain], indent=1, ensure_ascii=False),
        missing=[node.id for node in card.lineage.nodes if not node.spec],
    )


def front_of(card: Card) -> dict[str, Any]:
    """The front matter: keys of which nothing is known are left out, except the licence."""
    relation = {"adapter": "adapter", "merged": "finetune", "model": "finetune"}[card.form]
    if card.form == "model" and card.lineage.chain and card.lineage.chain[-1].stage == "merge":
        relation = "merge"
    tags = ["equipoise", "alignment", "safety", card.method or "", card.scorer and f"{card.scorer}-model"]
    datasets = list(dict.fromkeys(used.source.hub for used in card.data if used.source.hub))
    front = {
        "license": card.licence.identifier or ("other" if card.licence.text else "unknown"),
        "license_name": card.licence.text if card.licence.text and not card.licence.identifier else None,
        "base_model": card.hub_base,
        "base_model_relation": relation if card.hub_base else None,
        "datasets": datasets,
        "language": list(card.language),
        "library_name": "peft" if card.form == "adapter" else "transformers",
        "pipeline_tag": "text-classification" if card.scorer else "text-generation",
        "tags": [tag for tag in (*tags, "playground" if card.playground else "") if tag],
    }
    return {key: value for key, value in front.items() if value}


def _title(card: Card) -> str:
    return f"{card.name}: {card.label}" if card.label and card.label != card.name else card.name


def step_of(node: Node) -> dict[str, str]:
    """A stage of the lineage in one line."""
    config, summary = node.config, node.summary
    what = _WHAT.get(node.stage, node.stage)
    if "objective" in config:
        use = config["objective"]
        numbers = ", ".join(f"{key} {value:g}" for key, value in use.get("settings", {}).items())
        what = f"{use['objective']}{f' ({numbers})' if numbers else ''}"
    elif node.stage == "ppo":
        limits = ((key, config["ppo"].get(key)) for key in ("limit", "unsafe_rate", "multiplier"))
        numbers = ", ".join(f"{key} {value:g}" for key, value in limits if value is not None)
        what = f"PPO{f' ({numbers})' if numbers else ''}"
    elif node.stage == "merge":
        models = node.inputs.get("models", [])
        parts = zip(config.get("weights", ()), models, strict=False)
        what = "merge of " + " + ".join(f"{weight:g} x {model}" for weight, model in parts)
    amount = [f"{summary[key]:,} {word}" for key, word in _AMOUNTS if isinstance(summary.get(key), int)]
    made = str(node.manifest.get("created", ""))[:10]
    return {"id": node.id, "what": what, "amount": ", ".join(amount) or UNKNOWN, "made": made or UNKNOWN}


_WHAT = {"fresh": "random weights, and a tokenizer", "playground_base": "a base of the playground"}
_AMOUNTS = (("rows", "rows"), ("steps", "steps"), ("train_tokens", "tokens"))


def _spec(node: Node, defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A stage's inputs and the settings that were set: neither nothing nor the default."""
    config = {
        name: {key: given for key, given in value.items() if key not in own or given != own[key]}
        if isinstance(value, Mapping) and (own := defaults.get(name))
        else value
        for name, value in node.config.items()
    }
    return {"id": node.id, "inputs": said_of(node.inputs), "config": said_of(without_places(config))}


def said_of(value: Any) -> Any:
    """A value without keys that hold nothing: null, no text, no entries."""
    if isinstance(value, Mapping):
        told = {key: said_of(item) for key, item in value.items()}
        return {key: item for key, item in told.items() if item is not None and item not in ("", [], {})}
    return [said_of(item) for item in value] if isinstance(value, (list, tuple)) else value


def _table(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result's figures and how they were measured."""
    rows = []
    for name, metric in result["metrics"].items():
        rate = metric["kind"] in ("rate", "share", "corrected")
        said = figure(metric, rate=rate)
        rows.append({"name": name, "figure": said, "prompts": metric["n_prompts"], "unscored": metric["unscored"]})
    sampling = ", ".join(f"{key} {value}" for key, value in result["sampling"].items() if value not in (None, [], ()))
    return {
        "suite": result["suite"],
        "judge": result["judge"],
        "template": result["template"] or "the model's own",
        "system": result["system_prompt"] or "none",
        "sampling": sampling or "none: nothing was sampled",
        "label": result["label"],
        "seeds": result.get("seeds") or [result["seed"]],
        "rows": rows,
    }


def not_tested(card: Card) -> list[str]:
    """What the card cannot say, in sentences."""
    names = {name for result in card.results for name in result["metrics"]}
    out = list(card.untested)
    if not card.results:
        out.append("No evaluation of this model is recorded beside it: nothing here says how safe or helpful it is.")
    elif not card.scorer:
        if not any(name.startswith("unsafe_rate") for name in names):
            out.append("Whether its own answers to harmful requests are harmful was not measured.")
        if not any(name.startswith("over_refusal") for name in names):
            out.append("Whether it refuses harmless requests was not measured.")
        if not any(name.startswith("capability/") for name in names):
            out.append("Knowledge and reasoning (capability tasks) were not compared with the base.")
        if not any(name.startswith("honesty/") for name in names):
            out.append("Honesty was not measured.")
    if card.results and all(len(result.get("seeds") or [0]) == 1 for result in card.results):
        out.append("One seed: training noise not measured.")
    out.append("Attacks that are made to break it, languages other than those of the data, and long dialogues.")
    return out


def config_text(text: str) -> str:
    """A run's config with absolute paths cut to folder and file: the rest tells about a machine."""
    return str(yaml.safe_dump(without_places(yaml.safe_load(text)), sort_keys=False, allow_unicode=True)).strip()


def without_places(value: Any) -> Any:
    """A value in which absolute paths are cut to folder and file."""
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(item) for item in value]
    return short(value) if isinstance(value, str) and value.startswith(("/", "~/")) else value


def described(source: Source) -> str:
    """What an entry says besides where it lies."""
    asks = [f"{key}: {value}" for key, value in source.asks.items()]
    return ", ".join([f"revision {source.revision}"] * bool(source.revision) + asks)


def cell(text: object) -> str:
    """A text that stays in its cell of a table."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").replace("<", "&lt;").strip()
