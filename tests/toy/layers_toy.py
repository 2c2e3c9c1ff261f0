"""The toy's one layer."""

import torch
from torch import nn


class ToyLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.shift = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, hidden_states):
        return torch.tanh(self.dense(hidden_states)) + self.shift
