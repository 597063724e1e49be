"""Block codecs of GGUF as torch functions, and the training that sees exactly the values that the file will hold."""
