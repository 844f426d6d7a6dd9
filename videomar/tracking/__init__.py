"""What training runs record in MLflow, even while its store is away."""
