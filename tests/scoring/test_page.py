"""The report in headless Chromium: it opens, asks for nothing from outside, logs no error, shows every picture."""
import json
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from conftest import script
from html_page import Page

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


@pytest.fixture(scope='module')
def reports(synthetic, tmp_path_factory):
    """{name: report.html}: one run on both protocols, two runs laid over each other, one whose pictures are gone."""
    out = tmp_path_factory.mktemp('reports')
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.standard_normal((14, 16)), 24, 0)
    for name, noise in (('good', 1.0), ('bad', 2.0)):
        np.save(out / f'{name}.npy', centres + noise * rng.standard_normal((336, 16)))
    common = 'eval_lfw.py', '--features', out / 'good.npy', '--dataset_path', synthetic
    for name, arguments in (('one', ()), ('two', ('--compare', out / 'bad.npy')), ('bare', ('--root_path', out))):
        done = script(*common, '--report', out / name, *arguments)
        assert done.returncode == 0 and f'report: {out / name / "report.html"}' in done.stdout, done.stderr
    return {name: out / name / 'report.html' for name in ('one', 'two', 'bare')}


def test_the_page_is_whole_and_needs_only_itself(reports):
    for name, file in reports.items():
        text = file.read_text()
        page = Page(text)
        assert all(value.startswith(('data:', '#')) for value in page.refers)
        assert len(page.ids) == len(set(page.ids)), name
        assert set(re.findall(r'url\(#([^)]+)\)', text)) <= set(page.ids)
        assert page.pictures == {'bare': 0, 'one': 4 * 24, 'two': 8 * 24}[name]
        assert ('The pictures are not in' in text) == (name == 'bare')
        points = json.loads((file.parent / 'thresholds.json').read_text())['points']
        assert {p['protocol'] for p in points} == {'lfw', 'blufr'}
        assert all(f"{p['threshold']:.6f}" in text for p in points)
    assert text.count('<svg') == 5


def test_runs_are_laid_over_each_other(reports):
    text = reports['two'].read_text()
    assert 'bad.npy' in text and text.count('class="swatch"') == 2
    assert all(colour in text for colour in ('#3b82f6', '#f97316'))
    assert '#f97316' not in reports['one'].read_text().split('</style>')[1]


def test_names_in_a_page_are_text(synthetic, tmp_path):
    from src.protocols.lfw import LFW
    from src.protocols.pairs import scored_pairs
    from src.scoring.page import write_page
    rng = np.random.default_rng(0)
    pairs = np.arange(200).reshape(100, 2)
    result = {'genuine': rng.random(100), 'impostor': rng.random(100), 'names': ['<script>alert(1)</script>.jpg'] * 200,
              'pairs': np.concatenate([pairs, pairs]), 'people': np.concatenate([pairs[:, [0, 0]], pairs])}
    from src.scoring import metrics
    result = {**metrics.lfw(rng.standard_normal((200, 8)), pairs, pairs), **result}
    write_page(str(tmp_path / 'report.html'), {'<b>run</b>': {'lfw': scored_pairs(result, LFW)}}, str(synthetic))
    text = (tmp_path / 'report.html').read_text()
    assert '<script' not in text and '<b>run' not in text and '&lt;b&gt;run' in text


@pytest.mark.skipif(CHROMIUM is None, reason='Chromium is not installed (apt-get install chromium): the report was not '
                    'opened in a browser')
@pytest.mark.parametrize('name, width', [('one', 1100), ('two', 390), ('bare', 390)])
def test_chromium_shows_it(reports, tmp_path, name, width):
    command = [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
               '--disable-background-networking', '--disable-component-update', '--disable-sync', '--hide-scrollbars',
               f'--user-data-dir={tmp_path / "user"}', '--enable-logging=stderr', '--v=0',
               f'--log-net-log={tmp_path / "net.json"}', f'--window-size={width},3000',
               f'--screenshot={tmp_path / "shot.png"}', f'file://{reports[name]}']
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 and 'CONSOLE' not in done.stderr, done.stderr
    shot = cv2.imread(str(tmp_path / 'shot.png'))
    assert shot.shape == (3000, width, 3)
    assert shot.std() > 10 and shot[-1000:].std() > 5               # something stands on it, down to the pictures
    asked = re.findall(r'"url":"(?:https?|wss?|ftp)://([^/"]+)', (tmp_path / 'net.json').read_text())
    own = '.google.com', '.googleapis.com'                          # the browser's own, at every start
    assert all(host.endswith(own) for host in asked), asked
