"""The whole trained model in one folder, and its predictions for new images.

``bundle``: the files of the folder. ``model``: load it and predict.
``reference``: what is usual among images of the dataset of pretraining.
``images``: find and read image files. ``tables``: write Parquet and CSV.
``whole``: the model as one function. ``onnx_file``: this function as an ONNX file.
``command``: the program ``prosmin``. ``page``: the page of ``prosmin predict --report``.
"""
