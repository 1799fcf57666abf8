"""Export of trained networks to ONNX and `torch.export`, with a proof of equality."""

from kdmm.deploy.export import Network, network_of, peer_config
from kdmm.deploy.formats import default_opset, to_onnx, to_torch_export
from kdmm.deploy.verify import Proof, Reference, prove_onnx, prove_torch_export, references_of

__all__ = [
    'Network',
    'Proof',
    'Reference',
    'default_opset',
    'network_of',
    'peer_config',
    'prove_onnx',
    'prove_torch_export',
    'references_of',
    'to_onnx',
    'to_torch_export',
]
