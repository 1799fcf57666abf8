"""Names, colours and joints of the generated scenes."""

CLASSES = ('sky', 'building', 'road', 'pavement', 'plants', 'pole', 'sign', 'car', 'person')
PALETTE = [
    [120, 170, 215],
    [110, 85, 80],
    [90, 90, 95],
    [200, 150, 190],
    [85, 140, 60],
    [240, 230, 120],
    [250, 170, 30],
    [40, 70, 190],
    [220, 30, 70],
]
SKY, BUILDING, ROAD, PAVEMENT, PLANTS, POLE, SIGN, CAR, PERSON = range(len(CLASSES))
IGNORE = 255

THINGS = (SIGN, CAR, PERSON)
"""Classes that have instances, so boxes."""

KINDS = ('residential', 'downtown', 'park', 'highway')
"""Scene classes, for classification."""

JOINTS = (
    'nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear', 'left_shoulder', 'right_shoulder',
    'left_elbow', 'right_elbow', 'left_wrist', 'right_wrist', 'left_hip', 'right_hip',
    'left_knee', 'right_knee', 'left_ankle', 'right_ankle',
)  # fmt: skip
"""The 17 joints, in COCO's order."""
