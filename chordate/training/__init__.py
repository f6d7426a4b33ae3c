"""Training: the trainer, callbacks, optimizers, schedules, and the state of a run in checkpoints."""
