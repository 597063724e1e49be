from learnt_model import learnt_gguf, learnt_model_dir, plant_labels, plant_records

__all__ = ["learnt_gguf", "learnt_model_dir", "plant_labels", "plant_records"]
