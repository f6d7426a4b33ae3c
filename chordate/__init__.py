"""Chordate: any backbone, any neck, any head; assembled from a config, trained, evaluated and exported."""
