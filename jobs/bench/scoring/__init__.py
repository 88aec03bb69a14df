"""What scoring costs, stage by stage and rasteriser by rasteriser."""
