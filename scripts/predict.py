from detfuse.cli import predict

predict()
