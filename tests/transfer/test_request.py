import pytest

from kdmm.errors import ConfigError
from kdmm.transfer import Request


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(to='mmfoo'), "--to: expected one of mmpose, .*timm, got 'mmfoo'"),
        (dict(out='none/b.pth'), "--out: no folder 'none'"),
        (dict(out='.'), 'is a folder, expected a file'),
        (dict(out='old.pth'), "--out: 'old.pth' exists; overwrite it with --force"),
        (dict(out='./a.pth', force=True), 'is the file to be read'),
        (dict(out='full.pth', into='full.pth', force=True), 'is the file to be read'),
        (dict(into='full.pth', to='timm'), '--into: of the OpenMMLab libraries only, not of timm'),
        (dict(also=('head',)), '--also: .* give --into'),
        (dict(size=(64, 16)), '--size: expected two numbers of at least 32'),
    ],
)
def test_what_cannot_be_right(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    for name in ('a.pth', 'old.pth', 'full.pth'):
        (tmp_path / name).touch()
    Request('a.pth', 'mmdet', 'b.pth').check()
    Request('a.pth', 'mmdet', 'old.pth', force=True).check()
    with pytest.raises(ConfigError, match=message):
        Request(**(dict(checkpoint='a.pth', to='mmdet', out='b.pth') | change)).check()
