"""Whether batches hold what a head compares: two faces of one person."""
import numpy as np

from src.dataset import TrainingBatches
from src.heads.head import Head

LOOKED_AT = 100                  # batches from the first on


def batch_notes(head: Head, batches: TrainingBatches) -> list:
    """Return lines to tell before training; ValueError if the head compares faces and no batch has a genuine pair."""
    notes, name, num_faces = [], batches.cfg.loss, batches.cfg.faces_per_person
    if batches.people:
        people = batches.people
        notes.append(f"batches of {people.per_batch} people x {num_faces} faces; of {people.num_repeated} people with "
                     "fewer faces some come twice")
    if head.has_weight:
        return notes
    head.check_faces(num_faces)
    if not batches.people:
        lacking, looked_at = without_pair(batches)
        if lacking == looked_at:
            raise ValueError(f"head {name} compares faces of one person, and none of the first {looked_at} batches "
                             "holds two of one person: set faces_per_person=4")
        if lacking:
            notes.append(f"warning: {lacking} of the first {looked_at} batches hold no two faces of one person, which "
                         f"head {name} compares: set faces_per_person=4")
    return notes


def without_pair(batches: TrainingBatches) -> tuple:
    """Return how many of the first batches have no two faces of one person, and how many were looked at."""
    steps = range(min(LOOKED_AT, len(batches)))
    labels = (batches.faces.labels[batches.global_rows(step)] for step in steps)
    return sum(len(np.unique(batch)) == len(batch) for batch in labels), len(steps)
