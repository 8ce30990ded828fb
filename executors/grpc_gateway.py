"""Box ``gateway`` over gRPC: what the programs of this project talk to."""

from jina.serve.runtimes.gateway.grpc import GRPCGateway

from executors.discovery import AwaitsExecutors


class PatientGRPCGateway(AwaitsExecutors, GRPCGateway):
    """Hands requests on as they are."""
