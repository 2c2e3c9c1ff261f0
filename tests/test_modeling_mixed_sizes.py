"""Images of several sizes in one batch: cut apart and put together again, nothing else."""

import pytest
import torch

from modeling_vit_custom import ViTCustomBackbone
from modeling_vit_custom import ViTCustomForImageClassification
from modeling_vit_custom.modeling_mixed_sizes import in_batch_order
from modeling_vit_custom.modeling_mixed_sizes import same_size_parts
from tests.support import fill
from tests.support import picture
from tests.support import tiny

SIZES = [(8, 6), (5, 9), (8, 6), (8, 9)]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Four images of three sizes, with noise in the padding, and their mask."""
    pixel_values, pixel_mask = picture(4, 3, 8, 9), torch.zeros(4, 8, 9, dtype=torch.long)
    for mask, (height, width) in zip(pixel_mask, SIZES, strict=True):
        mask[:height, :width] = 1
    return pixel_values, pixel_mask


def test_each_image_comes_once_and_at_its_own_size(batch):
    parts = same_size_parts(*batch)
    assert sorted(int(place) for index, _ in parts for place in index) == [0, 1, 2, 3]
    for index, images in parts:
        for place, image in zip(index.tolist(), images, strict=True):
            height, width = SIZES[place]
            assert torch.equal(image, batch[0][place, :, :height, :width])


def test_parts_of_a_size_travel_together(batch):
    assert sorted(len(images) for _, images in same_size_parts(*batch)) == [1, 1, 2]


def test_putting_together_undoes_the_cutting(batch):
    means = [(index, images.mean(dim=(1, 2, 3))) for index, images in same_size_parts(*batch)]
    expected = torch.stack([batch[0][n, :, :h, :w].mean() for n, (h, w) in enumerate(SIZES)])
    torch.testing.assert_close(in_batch_order(means), expected)


def test_images_of_one_size_stay_the_batch_they_are(batch):
    pixel_values, _ = batch
    for mask in (None, torch.ones(4, 8, 9)):
        ((index, images),) = same_size_parts(pixel_values, mask)
        assert index is None
        assert images.shape == pixel_values.shape
        assert images.data_ptr() == pixel_values.data_ptr()  # no copy


def test_padding_that_all_images_share_is_cut_off(batch):
    pixel_values, mask = batch[0], torch.zeros(4, 8, 9)
    mask[:, :5, :7] = 1
    ((index, images),) = same_size_parts(pixel_values, mask)
    assert index is None
    assert images.shape == (4, 3, 5, 7)


HOLE, LEFT, EMPTY = (torch.ones(4, 8, 9) for _ in range(3))
HOLE[1, 3, 3], LEFT[2, :, 0], EMPTY[3] = 0, 0, 0


@pytest.mark.parametrize("mask", [HOLE, LEFT, EMPTY], ids=["hole", "left", "empty"])
def test_a_mask_that_is_no_image_at_the_top_left_is_refused(batch, mask):
    with pytest.raises(ValueError, match="pad below and right"):
        same_size_parts(batch[0], mask)


def test_a_mask_of_another_size_is_refused(batch):
    with pytest.raises(ValueError, match="take both from one call of the image processor"):
        same_size_parts(batch[0], torch.ones(4, 8, 8))


@pytest.mark.parametrize("model_class", [ViTCustomForImageClassification, ViTCustomBackbone])
def test_a_model_of_whole_images_refuses_padding_and_takes_a_full_mask(model_class):
    model = fill(model_class(tiny()))
    pixel_values, mask = picture(2, 3, 32, 32), torch.ones(2, 32, 32, dtype=torch.long)
    with torch.no_grad():
        expected, found = model(pixel_values)[0], model(pixel_values, pixel_mask=mask)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    mask[1, 20:] = 0
    with pytest.raises(ValueError, match="Resize the images of a batch to one size"):
        model(pixel_values, pixel_mask=mask)
