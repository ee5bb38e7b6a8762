"""JPEG of 12 bits a pixel (Extended, process 4), which no plugin of pydicom decodes: by GDCM."""

from __future__ import annotations

import gdcm
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import JPEGExtended12Bit

_PIXEL_DATA = gdcm.Tag(0x7FE0, 0x0010)


def is_12_bit_jpeg(dataset: Dataset) -> bool:
    """Whether the pixels need the decoder below."""
    return dataset.file_meta.get("TransferSyntaxUID") == JPEGExtended12Bit and int(dataset.BitsStored) > 8


def decode_12_bit_jpeg(dataset: Dataset) -> npt.NDArray[np.uint16]:
    """Stored values (F, H, W). ValueError if they are damaged, or colour or signed, which no software writes."""
    rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsStored)
    layout = int(dataset.SamplesPerPixel), int(dataset.BitsAllocated), int(dataset.PixelRepresentation)
    if layout != (1, 16, 0):
        raise ValueError("12-bit JPEG is read only where it is grey and unsigned")
    frames = []
    for content in generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
        fragment = gdcm.Fragment()
        fragment.SetByteStringValue(content)
        fragments = gdcm.SequenceOfFragments.New()
        fragments.AddFragment(fragment)
        element = gdcm.DataElement(_PIXEL_DATA)
        element.SetValue(fragments.__ref__())
        image = gdcm.Image()
        image.SetNumberOfDimensions(2)
        image.SetDimensions((columns, rows, 1))
        image.SetDataElement(element)
        image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
        image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
        image.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, 0))
        buffer = image.GetBuffer()  # its char* comes as str
        if buffer is None:
            raise ValueError("damaged or cut short")
        frames.append(np.frombuffer(buffer.encode("utf-8", "surrogateescape"), "<u2").reshape(rows, columns))
    return np.stack(frames)
