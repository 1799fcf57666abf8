"""Pure tensor maths: torch and nothing above it."""

from ..renamed import renamed
from .adversarial import hinge_discriminator, hinge_generator, wasserstein_discriminator
from .attention import attention_map, attention_transfer, path_differences
from .bank_contrast import mutual_bank_contrast
from .batch_geometry import batch_angles, batch_distances
from .batch_similarity import batch_probability_kl, batch_similarity_mse
from .centres import centre_similarity_mse
from .channel import channel_mse, channel_relation_kl, channel_rows, pool_ceil
from .collective import (
    all_gather_cat,
    distributed,
    gather_images,
    gather_with_grad,
    global_image_index,
    mean_over_ranks,
    rank,
    sum_over_ranks,
    world_size,
)
from .contrast import contrast_logits, same_class, supervised_contrast
from .correlation import class_correlation_mse, neighbour_congruence, prediction_correlation
from .difference import gaussian_nll, mean_squared_difference
from .divergence import binary_kl_divergence, channel_kl, decoupled_kl, kl_divergence
from .gram import channel_map_mmd, pairwise_similarity_mse
from .layer_bank_contrast import layer_bank_contrast
from .layer_contrast import (
    layer_contrast,
    learned_matching,
    one_to_one_matching,
    pair_weights,
    uniform_matching,
)
from .maps import (
    check_labels,
    full_precision,
    map_to_rows,
    normalize_rows,
    promote,
    resize_labels,
    valid_labels,
)
from .meta_gradient import MetaGradient, meta_gradient
from .mutual import MutualContrast, mutual_contrast, mutual_hard, mutual_soft
from .negatives import (
    ClassIndex,
    ShareIndex,
    draw_columns,
    draw_distinct,
    draw_others,
    draw_own,
    draw_share,
    index_classes,
    index_shares,
)
from .noise_contrast import log_partition, mutual_noise_contrast, noise_contrast
from .online import attended_logits, gated_logits
from .queue_contrast import mutual_queue_contrast, queue_logits
from .relation import memory_kl, pixel_to_pixel_kl
from .rotation import ROTATIONS, class_marginals, joint_labels, rotations, unrotated
from .scores import bank_scores, cross_bank_scores, scores_all_rows

# arguments under their names of kdmm 0.1 are taken here, and not inside the package
kl_divergence = renamed(tau='temperature')(kl_divergence)
binary_kl_divergence = renamed(tau='temperature')(binary_kl_divergence)
channel_kl = renamed(tau='temperature')(channel_kl)
class_correlation_mse = renamed(tau='temperature')(class_correlation_mse)
memory_kl = renamed(t_mem='temperature')(memory_kl)

__all__ = [
    'ROTATIONS',
    'ClassIndex',
    'MutualContrast',
    'ShareIndex',
    'all_gather_cat',
    'attended_logits',
    'attention_map',
    'attention_transfer',
    'bank_scores',
    'batch_angles',
    'batch_distances',
    'batch_probability_kl',
    'batch_similarity_mse',
    'binary_kl_divergence',
    'centre_similarity_mse',
    'channel_kl',
    'channel_map_mmd',
    'channel_mse',
    'channel_relation_kl',
    'channel_rows',
    'check_labels',
    'class_correlation_mse',
    'class_marginals',
    'contrast_logits',
    'cross_bank_scores',
    'decoupled_kl',
    'distributed',
    'draw_columns',
    'draw_distinct',
    'draw_others',
    'draw_own',
    'draw_share',
    'full_precision',
    'gated_logits',
    'gather_images',
    'gather_with_grad',
    'gaussian_nll',
    'global_image_index',
    'hinge_discriminator',
    'hinge_generator',
    'index_classes',
    'index_shares',
    'joint_labels',
    'kl_divergence',
    'layer_bank_contrast',
    'layer_contrast',
    'learned_matching',
    'log_partition',
    'MetaGradient',
    'map_to_rows',
    'mean_over_ranks',
    'meta_gradient',
    'mean_squared_difference',
    'memory_kl',
    'mutual_bank_contrast',
    'mutual_contrast',
    'mutual_hard',
    'mutual_noise_contrast',
    'mutual_queue_contrast',
    'mutual_soft',
    'neighbour_congruence',
    'noise_contrast',
    'normalize_rows',
    'one_to_one_matching',
    'pair_weights',
    'pairwise_similarity_mse',
    'path_differences',
    'pixel_to_pixel_kl',
    'pool_ceil',
    'prediction_correlation',
    'promote',
    'queue_logits',
    'rank',
    'resize_labels',
    'rotations',
    'same_class',
    'scores_all_rows',
    'sum_over_ranks',
    'uniform_matching',
    'supervised_contrast',
    'unrotated',
    'valid_labels',
    'wasserstein_discriminator',
    'world_size',
]
