"""Presentation of results: figures, reports and MLflow. Independent of models."""
