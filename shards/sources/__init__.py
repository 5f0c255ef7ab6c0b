"""One module per annotation format, each with one function that yields `FaceAnnotation`s."""
