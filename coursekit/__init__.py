"""Reference implementations, data sets and figures of the course."""

from coursekit import threads

# In the order of the lectures: each names a module here, a folder of the catalogue, and with its number a notebook.
TOPICS = ("preprocessing", "batchnorm", "visualization", "convolutionalize", "upsampling", "fcn", "unet")

threads.prefer()
