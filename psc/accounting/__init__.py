"""What a network costs: parameters, multiply-adds, activation memory, layer by layer.

``account`` and ``activation_memory`` take any module apart on the meta device, without memory or
arithmetic, wherever the module itself is. The tests know the same numbers from the layer widths
alone, with no module built: double entry.

**MACs and FLOPs.** ``multiply_adds`` are MACs, one multiplication with its addition; ``flops`` are
always 2 · MACs. Convolutions, transposed convolutions, linear layers and matrix products (of
attention, say) count, as in torch's ``FlopCounterMode``; biases, normalisation, activations,
pooling and interpolation do not.
"""

from psc.accounting.account import Account, ActivationMemory, Layer, account, activation_memory

__all__ = ["Account", "ActivationMemory", "Layer", "account", "activation_memory"]
