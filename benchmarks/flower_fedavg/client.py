"""The ClientApp: train from the global weights, send the new ones in the clear; evaluate, send the loss."""

from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from secfed.config import TrainingPlan

app = ClientApp()


def _setting(context: Context) -> tuple[TrainingPlan, Path]:
    plan = TrainingPlan.model_validate_json(Path(str(context.run_config["plan"])).read_text(encoding="utf-8"))
    return plan, Path(str(context.node_config["site-folder"]))


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of local steps."""
    from clients.site import Site
    from clients.training import train_one_round
    from secfed.data.cases import LABEL_MAPS
    from secfed.network import initial_vector

    plan, folder = _setting(context)
    site = Site(folder)
    cases = site.cases(plan)
    _, layout = initial_vector(plan, num_classes=LABEL_MAPS[plan.task].num_classes)
    start = message.content.array_records["arrays"].to_numpy_ndarrays()[0].astype(np.float32)
    outcome = train_one_round(
        plan=plan,
        sources=cases.sources,
        start=start,
        layout=layout,
        server_round=int(str(message.content.config_records["config"]["server-round"])),
        state_folder=folder / "fedavg-state",
    )
    content = RecordDict(
        {
            "arrays": ArrayRecord([np.asarray(outcome.weights)]),
            "metrics": MetricRecord({"num-examples": cases.examples, "train_loss": outcome.mean_loss}),
        }
    )
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """What FedAvg asks after every round: Dice of the averaged model on the site's first training case."""
    import torch

    from clients.evaluation import mean_dice_by_modality
    from clients.site import Site
    from secfed.data.cases import LABEL_MAPS
    from secfed.network import initial_vector

    plan, folder = _setting(context)
    cases = Site(folder).cases(plan)
    _, layout = initial_vector(plan, num_classes=LABEL_MAPS[plan.task].num_classes)
    weights = message.content.array_records["arrays"].to_numpy_ndarrays()[0].astype(np.float32)
    held_out = cases.validation or cases.sources[0].cases[:1]
    scores = mean_dice_by_modality(weights, layout, held_out, plan=plan, device=torch.device("cpu"))
    total, count = next(iter(scores.values()))
    content = RecordDict({"metrics": MetricRecord({"num-examples": cases.examples, "dice": total / max(1, count)})})
    return Message(content, reply_to=message)
