"""The clipped sum of some patients' gradients, as a site takes it before noise is added."""

import torch

from clients.patient_training import PatientTraining
from clients.patients import patients_of
from clients.training import TrainingSource
from secfed.data.cases import ABDOMEN
from secfed.network import initial_vector

CPU = torch.device("cpu")


def clipped(plan, cases, lot):
    start, layout = initial_vector(plan, num_classes=ABDOMEN.num_classes)
    patients = patients_of((TrainingSource(site="here", cases=tuple(cases)),), plan)
    with PatientTraining.opened(
        plan=plan, layout=layout, patients=patients, start=start, server_round=1, device=CPU
    ) as work:
        return work.clipped_sum(lot).vector
