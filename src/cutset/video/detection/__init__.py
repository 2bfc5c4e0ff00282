"""What is in the pictures of a stream: detectors' outputs as boxes, and what is done with them."""

from cutset.video.detection.boxes import Detections, suppress
from cutset.video.detection.choosing import KINDS, choose_decoder, facts_of
from cutset.video.detection.labels import labels_of, read_labels
from cutset.video.detection.output_decoder import HeadFacts, HeadLimits, OutputDecoder
from cutset.video.detection.result_decoder import ResultDecoder

__all__ = [
    "KINDS",
    "Detections",
    "HeadFacts",
    "HeadLimits",
    "OutputDecoder",
    "ResultDecoder",
    "choose_decoder",
    "facts_of",
    "labels_of",
    "read_labels",
    "suppress",
]
