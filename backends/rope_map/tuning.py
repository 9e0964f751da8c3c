"""The tuned constants of the memory map, with their units, the ranges tried, and what they were chosen on.

All of them enter the fingerprint of a calibration, and with it that of a stored state (``calibration.fingerprint``). Data
sets named here: *LoCoMo development* is five conversations of LoCoMo, *conv-26* and *conv-41* are single ones of them, *twelve facts* is
``tests/data/twelve_facts.json`` among 200 and 1,000 statements, all with Qwen2.5-Coder-0.5B. "Not varied" means that no other
value is on record. The constants in nats (``margin``, ``max_bonus``, ``min_pmi``) and the sharpness values depend on the model;
the calibration does not fit them yet.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """Tuned constants. A score 1 higher means a chunk e times as likely to be the one that answers (in nats)."""

    # Generated dialogues for the calibration

    num_dialogues: int = 4
    """Dialogues of some 150 turns that heads are selected and weights are fitted on. Not varied."""

    seed: int = 0
    """Of the generated dialogues. Not varied."""

    facts_per_dialogue: int = 30
    """Facts that a dialogue tells and questions ask for, at most as many as ``calibration.yaml`` has. Not varied."""

    turns_per_session: int = 20
    """Length of a generated session. Not varied."""

    remarks_per_dialogue: int = 24
    """Messages per dialogue that no memory answers; the threshold of abstention is fitted on them. Not varied."""

    background_pairs: int = 80
    """Pairs of small-talk turns that make up the background; the remarks are drawn from the others. Not varied."""

    # Selecting heads

    num_query_heads: int = 14
    """Query heads that address memory. 18 and 20 were no better on LoCoMo development."""

    num_value_heads: int = 5
    """Key/value heads whose values are compared. Chosen on LoCoMo development and the twelve facts; other values are not
    recorded."""

    offsets: tuple[int, ...] = (64, 128, 256, 512)
    """Distances between query and memory, in tokens, that each selected query head is tried at. Not varied."""

    first_offset: int = 256
    """Distance in tokens at which all query heads are compared first. Not varied."""

    question_stride: int = 7
    """Query heads are compared on every 7th question, to save time. A prime, because questions come in kinds. Not varied."""

    # Evidence of a head

    mass_floor: float = 1e-3
    """Attention mass, 0 to 1, below which a chunk counts as noise: an even spread over a thousand chunks. Not varied."""

    hits_per_token: int = 256
    """Stored keys that the index returns for each token of a question. Not varied."""

    value_sharpness: float = 15.0
    """Score, before the softmax, of two tokens whose values have cosine 1. Of 10, 15, 20 and 30 on LoCoMo development."""

    whitening_ridge: float = 0.05
    """Added to the covariance of values, as a share of the mean variance; components that hardly vary are noise. Chosen
    on LoCoMo development and the twelve facts; other values are not recorded."""

    # Fitting weights and threshold

    weight_penalty: float = 0.3
    """Factor of the squared weights in the loss. 0.1 to 0.3 on conv-41 of LoCoMo: recall@10 from 0.776 to 0.804."""

    fit_steps: int = 80
    """Most iterations of L-BFGS. Not varied."""

    refused_share: float = 0.6
    """Share of remarks, 0 to 1, whose best chunk stays below the threshold of abstention. Not varied."""

    # Scores of chunks

    neighbour_credit: tuple[tuple[int, float], ...] = ((0, 1.0), (-1, 0.5), (-2, 0.5), (1, 0.3))
    """How much of the evidence on the chunk so many places away counts for a chunk. Chosen on conv-26 of LoCoMo. Fitted
    weights per neighbour and head were worse: recall@10 on LoCoMo development 0.70 against 0.78."""

    margin: float = 3.0
    """Nats. An abstaining memory drops chunks that are further behind the best one. Not varied."""

    # Query-likelihood reranking, in nats of the model's own log-likelihood. Chosen on LoCoMo development and the twelve facts;
    # other values are not recorded.

    pmi_weight: float = 0.5
    """Factor of the PMI in a chunk's bonus: the question counts in the addressing score already."""

    max_bonus: float = 6.0
    """Nats. Bonus of the chunk with the highest PMI; one whose PMI is 12 nats lower gets none."""

    min_pmi: float = 3.0
    """Nats. An abstaining memory needs a chunk that makes the question 20 times as likely, e to the power of 3."""

    pmi_relevance_weight: float = 0.1
    """How much each nat of PMI above ``min_pmi`` adds to the lead over the background, where the memory decides whether
    anything is relevant."""

    # Weights of attended chunks

    score_sharpness: float = 4.0
    """Factor of score differences between attended chunks. Scores are fitted on generated talk, where they differ more
    than among people's questions, so differences are widened. Not varied."""

    min_chunk_weight: float = 0.2
    """Least weight, 0 to 1, of an attended chunk, the best one having 1. Not varied."""


DEFAULT_TUNING = Tuning()
"""The constants in use. They are no settings: a change asks for the measurements in ``docs/rope_map.md``."""
