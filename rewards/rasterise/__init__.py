"""Drawing points into views: the rasterisers."""
