"""One module per stage of ``dvc.yaml``: read the section of ``params.yaml``, call ``prosmin``, write the outs."""
