"""The code that MLflow stores with each registered version.

A stored file never changes again, so this one must import nothing of ours but `videomar.serving`.
"""

import mlflow

from videomar.serving import VideomarModel

mlflow.models.set_model(VideomarModel())
