"""What a request must carry before a site looks at its content; anything else is refused with a reason.

Runs at a site, on unverified requests.
"""

from secfed.config import TrainingPlan
from secfed.errors import PolicyRefusal
from secfed.messages import Request


def text_field(request: Request, name: str) -> str:
    """A field that must be text."""
    value = request.fields.get(name)
    if not isinstance(value, str):
        raise PolicyRefusal(f"the {request.stage} stage must carry the text '{name}'")
    return value


def int_field(request: Request, name: str) -> int:
    """A field that must be a whole number."""
    value = request.fields.get(name)
    if type(value) is not int:
        raise PolicyRefusal(f"the {request.stage} stage must carry the whole number '{name}'")
    return value


def only_payload(request: Request) -> bytes:
    """The payload of a stage that carries exactly one."""
    if len(request.payloads) != 1:
        raise PolicyRefusal(f"the {request.stage} stage carries one payload, got {len(request.payloads)}")
    return request.payloads[0]


def leading_payloads(request: Request, count: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The first `count` payloads, which must be there, and the rest."""
    if len(request.payloads) < count:
        raise PolicyRefusal(f"the {request.stage} stage carries at least {count} payloads, got {len(request.payloads)}")
    return request.payloads[:count], request.payloads[count:]


def require_round(request: Request, plan: TrainingPlan, *, last: int) -> None:
    """Refuse a round that is not between the first and `last`."""
    if not 1 <= request.binding.server_round <= last:
        raise PolicyRefusal(
            f"round {request.binding.server_round} was asked for, the agreed plan has rounds 1 to "
            f"{plan.federation.rounds}"
        )


def require_initial_model(plan: TrainingPlan, model_hash: bytes, *, server_round: int) -> None:
    """Refuse to start from another model than the plan names."""
    if server_round == 1 and plan.initial_model is not None and model_hash.hex() != plan.initial_model:
        raise PolicyRefusal(f"round 1 starts from another model than the agreed plan's, {plan.initial_model[:16]}...")


def wants_validation(request: Request) -> bool:
    """Whether this round also validates the model it starts from."""
    return request.fields.get("validate") == 1
