"""What a person sees of a result: figures, reports, MLflow. Knows nothing of models."""
