"""What a stage computes with: processor or GPU, Ray cluster, random generators."""
