"""The public names, each in one line: for type checkers, and for `__init__.py`, which fetches them by this list."""

from chordate.api import features as features
from chordate.api import list_backbones as list_backbones
from chordate.api import list_models as list_models
from chordate.api import predict as predict
from chordate.config import load_config as load_config
from chordate.contracts import Backbone as Backbone
from chordate.contracts import FeatureSpec as FeatureSpec
from chordate.contracts import Neck as Neck
from chordate.data.dataset import Dataset as Dataset
from chordate.errors import ChordateError as ChordateError
from chordate.model_contracts import Metric as Metric
from chordate.model_contracts import Model as Model
from chordate.models.build import build_backbone as build_backbone
from chordate.models.build import build_model as build_model
from chordate.registry import BACKBONES as BACKBONES
from chordate.registry import CALLBACKS as CALLBACKS
from chordate.registry import DATASETS as DATASETS
from chordate.registry import FORMATS as FORMATS
from chordate.registry import HEADS as HEADS
from chordate.registry import LOSSES as LOSSES
from chordate.registry import METRICS as METRICS
from chordate.registry import MODELS as MODELS
from chordate.registry import NECKS as NECKS
from chordate.registry import OPTIMIZERS as OPTIMIZERS
from chordate.registry import TRANSFORMS as TRANSFORMS
from chordate.structures import Batch as Batch
from chordate.structures import Classification as Classification
from chordate.structures import ClassTargets as ClassTargets
from chordate.structures import DatasetMeta as DatasetMeta
from chordate.structures import Detections as Detections
from chordate.structures import InstanceTargets as InstanceTargets
from chordate.structures import Prediction as Prediction
from chordate.structures import Proposals as Proposals
from chordate.structures import SemanticMap as SemanticMap
from chordate.structures import SemanticTargets as SemanticTargets
from chordate.structures import Skeleton as Skeleton
from chordate.structures import Targets as Targets
from chordate.training.callbacks import Callback as Callback
from chordate.training.run import train as train
from chordate.visualization import draw as draw
from chordate.visualization import draw_targets as draw_targets
from chordate.weights.loading import LoadReport as LoadReport
from chordate.weights.loading import load_checkpoint as load_checkpoint

__version__: str
