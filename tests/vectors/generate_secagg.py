"""Writes the known answers of secure aggregation: every message of whole sessions, from fixed seeds.

    python tests/vectors/generate_secagg.py                        rewrites tests/vectors/secagg/*.json
    python tests/vectors/generate_secagg.py --new-encapsulations   with new ML-KEM ciphertexts

Run from the repository's root, after a change of the protocol that is meant; `docs/test-vectors.md` says what the files
hold. A test compares them byte for byte with what this would write.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from insecure_stand_ins import Encapsulation, InsecureSeededEntropy
from secagg_derivations import derivations
from secagg_negative import negative_vectors
from secagg_session import Encapsulations, RoundPlan, SessionPlan, SessionPlayer, body_of, document_hash

from privacy.secagg.client_state import ClientFloors
from privacy.secagg.key_agreement import SessionKeys
from privacy.secagg.messages import ShareMessage
from privacy.secagg.sealing import commit_secret

FOLDER = Path(__file__).parent / "secagg"

THREE_CLIENTS = SessionPlan(
    name="three_clients",
    members=("centre", "east", "north", "west"),
    clients=("east", "north", "west"),
    session=bytes(range(16)),
    floors=ClientFloors(min_cohort=2, min_threshold=2),
)
FOUR_CLIENTS = SessionPlan(
    name="four_clients",
    members=("east", "north", "south", "west"),
    clients=("east", "north", "south", "west"),
    session=bytes(range(0x20, 0x40)),
    floors=ClientFloors(min_cohort=3),
)
EIGHT_WORDS = {
    "east": [0, 1, 2, 3, 4, 5, 6, 7],
    "north": [10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000],
    "west": [2**32 - 1] * 8,
}
FIVE_WORDS = {
    "east": [1, 2, 3, 4, 5],
    "north": [2**31, 2**31 - 1, 0, 7, 2**32 - 1],
    "south": [11, 22, 33, 44, 55],
    "west": [2**31, 2**31, 0, 2**32 - 7, 1],
}


def read_encapsulations(plan: SessionPlan) -> Encapsulations:
    """The ciphertexts that the session's file holds already, by sender and recipient."""
    setup = json.loads((FOLDER / f"{plan.name}.json").read_text())["setup"]
    found: Encapsulations = {}
    for pair in setup["pairs"]:
        ciphertext = body_of(bytes.fromhex(setup["S1"][pair["first"]]))["ciphertexts"][pair["second"]]
        recorded = Encapsulation(ciphertext, bytes.fromhex(pair["encapsulated_secret"]))
        found.setdefault(pair["first"], {})[pair["second"]] = recorded
    return found


def new_encapsulations(plan: SessionPlan) -> Encapsulations:
    """Fresh ciphertexts for the session's ML-KEM keys, which come from their seeds."""
    public = {}
    for name in plan.clients:
        entropy = InsecureSeededEntropy(f"secfed test vectors / {plan.name} / {name}")
        key = SessionKeys.generate(entropy).advertisement().encapsulation_key
        public[name] = MLKEM768PublicKey.from_public_bytes(key)
    found: Encapsulations = {}
    for first, second in itertools.combinations(plan.clients, 2):
        secret, ciphertext = public[second].encapsulate()
        found.setdefault(first, {})[second] = Encapsulation(ciphertext, secret)
    return found


def play_three_clients(encapsulations: Encapsulations) -> SessionPlayer:
    """A dropout, a complaint, a conviction, and the convicted round once more without the guilty."""
    player = SessionPlayer(THREE_CLIENTS, encapsulations)
    common: dict[str, Any] = {"threshold": 2, "vectors": EIGHT_WORDS}
    everybody = THREE_CLIENTS.clients
    player.play(
        RoundPlan(
            number=1,
            about="west shares secrets and then uploads nothing; east and north are the survivors",
            invited=everybody,
            model="model 1",
            previous=bytes(32),
            silent_from_upload=("west",),
            **common,
        )
    )
    player.play(
        RoundPlan(
            number=2,
            about="west seals a damaged share to north, which complains; the others upload; nothing is opened",
            invited=everybody,
            model="model 2",
            previous=document_hash("the transcript entry of round 1"),
            forge={"west": _damage_sealed_share},
            **common,
        )
    )
    failed = player.play(
        RoundPlan(
            number=4,
            about="west's shares give another self seed than it committed to: the sum cannot be opened, and evidence "
            "convicts west; no round 3 was invited, so every ratchet takes two steps",
            invited=everybody,
            model="model 2",
            previous=document_hash("the transcript entry of round 2"),
            forge={"west": _commit_to_other_seed},
            **common,
        )
    )
    player.play(
        RoundPlan(
            number=5,
            about="the model of round 4 once more, without west, which the evidence of round 4 allows",
            invited=("east", "north"),
            model="model 2",
            previous=document_hash("the transcript entry of round 4"),
            evidence=(failed["evidence"],),
            **common,
        )
    )
    return player


def play_four_clients(encapsulations: Encapsulations) -> SessionPlayer:
    """One round that all clients stay in to the end."""
    player = SessionPlayer(FOUR_CLIENTS, encapsulations)
    player.play(
        RoundPlan(
            number=1,
            about="all four clients stay to the end",
            invited=FOUR_CLIENTS.clients,
            threshold=3,
            model="model 1",
            previous=document_hash("a transcript entry of another session"),
            vectors=FIVE_WORDS,
        )
    )
    return player


def documents(recorded: Callable[[SessionPlan], Encapsulations] = read_encapsulations) -> dict[str, str]:
    """Every generated file by name."""
    three, four = play_three_clients(recorded(THREE_CLIENTS)), play_four_clients(recorded(FOUR_CLIENTS))
    return {
        "three_clients.json": render(three.record()),
        "four_clients.json": render(four.record()),
        "derivations.json": render(derivations(three)),
        "negative.json": render(negative_vectors(three, four)),
    }


def render(value: Any) -> str:
    """JSON with one field a line: bytes in hexadecimal, lists of words on one line."""
    return _rendered(value, "") + "\n"


def _rendered(value: Any, margin: str) -> str:
    inner = margin + " "
    if isinstance(value, bytes):
        return f'"{value.hex()}"'
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping) and value:
        rows = [f"{inner}{json.dumps(name)}: {_rendered(item, inner)}" for name, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{margin}}}"
    if isinstance(value, list) and any(not isinstance(item, int | str) for item in value):
        return "[\n" + ",\n".join(inner + _rendered(item, inner) for item in value) + f"\n{margin}]"
    return json.dumps(value)


def _damage_sealed_share(body: ShareMessage, _: bytes) -> ShareMessage:
    row = body.peers["north"]
    sealed = bytes([row.sealed_seed_share[0] ^ 1]) + row.sealed_seed_share[1:]
    return replace(body, peers={**body.peers, "north": replace(row, sealed_seed_share=sealed)})


def _commit_to_other_seed(body: ShareMessage, context: bytes) -> ShareMessage:
    other = commit_secret(bytes(32), kind="self seed", owner="west", context=context)
    return replace(body, seed_commitment=other)


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--new-encapsulations",
        action="store_true",
        help="draw new ML-KEM ciphertexts instead of keeping those in the files",
    )
    FOLDER.mkdir(exist_ok=True)
    recorded = new_encapsulations if parser.parse_args().new_encapsulations else read_encapsulations
    for name, text in documents(recorded).items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
