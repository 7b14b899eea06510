"""MovieLens, Steam, Yelp and Amazon 2023: tiny files of each published form to a dataset directory."""

import gzip
import io
import json
import zipfile

import amazon_2023
import movielens
import pyarrow.parquet as pq
import pytest
import steam
import yelp
from download import download

from tests.data_scripts.test_amazon import FileServer
from tiger.data.dataset import RecommendationData
from tiger.utils.errors import DataError

NEW_YEAR = 1_704_067_200


def tables(folder) -> tuple[list[dict], list[dict]]:
    return tuple(pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("items", "interactions"))


def gzipped(path, lines) -> None:
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


MOVIES = (
    '1::Toy Story (1995)::Animation|Children\'s|Comedy\n2::Misérables, Les (1995)::Drama|Musical\n3::"Quoted"::Drama\n'
)
RATINGS = "1::2::5::978300760\n1::1::3::978300750\n2::1::4::978300700\n2::9::4::978300701\n"


def test_movielens_1m(tmp_path, capsys):
    (tmp_path / "movies.dat").write_bytes(MOVIES.encode("latin-1"))
    (tmp_path / "ratings.dat").write_text(RATINGS)
    assert movielens.main(["1m", "--out", str(tmp_path / "out"), "--raw", str(tmp_path)]) == 0
    items, log = tables(tmp_path / "out")
    assert items == [
        {"item_id": "1", "title": "Toy Story (1995)", "categories": "Animation|Children's|Comedy"},
        {"item_id": "2", "title": "Misérables, Les (1995)", "categories": "Drama|Musical"},
        {"item_id": "3", "title": '"Quoted"', "categories": "Drama"},
    ]
    assert log == [
        {"user_id": "1", "item_id": "1", "timestamp": 978300750, "rating": 3.0},
        {"user_id": "1", "item_id": "2", "timestamp": 978300760, "rating": 5.0},
        {"user_id": "2", "item_id": "1", "timestamp": 978300700, "rating": 4.0},
    ]
    assert "1 left out: events of items that the item table lacks" in capsys.readouterr().out
    assert len(RecommendationData.load(tmp_path / "out").sequences) == 2


def movielens_zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "ml-32m/movies.csv", 'movieId,title,genres\n1,"American President, The (1995)",(no genres listed)\n'
        )
        archive.writestr("ml-32m/ratings.csv", "userId,movieId,rating,timestamp\n7,1,4.5,944249077\n")
        archive.writestr("ml-32m/README.txt", "x" * 1000)
    return content.getvalue()


def test_movielens_32m_from_its_zip(tmp_path, monkeypatch):
    with FileServer(movielens_zip()) as server:
        monkeypatch.setattr(movielens, "BASE_URL", server.url.rpartition("/")[0] + "/")
        downloads = tmp_path / "raw"
        arguments = ["32m", "--out", str(tmp_path / "out"), "--download-to", str(downloads)]
        assert movielens.main(arguments) == 0
        assert movielens.main(arguments) == 0  # it is there already
        assert server.requests == [None]
    items, log = tables(tmp_path / "out")
    assert items[0]["title"] == "American President, The (1995)"
    assert log == [{"user_id": "7", "item_id": "1", "timestamp": 944249077, "rating": 4.5}]
    assert sorted(path.name for path in downloads.iterdir()) == ["ml-32m.zip", "ml-32m.zip.sha256"]


def test_a_damaged_zip_is_not_kept(tmp_path):
    content = bytearray(movielens_zip())
    content[60] ^= 255
    with FileServer(bytes(content)) as server, pytest.raises(DataError, match="is damaged"):
        download(server.url, tmp_path / "ml.zip")
    assert not list(tmp_path.iterdir())


def test_movielens_that_is_not_there(tmp_path, capsys):
    assert movielens.main(["1m", "--out", str(tmp_path / "out"), "--raw", str(tmp_path)]) == 1
    assert "holds neither movies.csv nor movies.dat nor ml-1m.zip" in capsys.readouterr().err


def test_steam(tmp_path, capsys):
    games = [
        "{u'id': u'10', u'app_name': u\"Garry's Mod\", u'title': u'GMod', u'genres': [u'Indie', u'Simulation'], "
        "u'tags': [u'Sandbox'], u'developer': u'Facepunch', u'price': 9.99, u'url': u'http://s.com'}",
        "{u'id': u'20', u'app_name': u'TF2', u'genres': [u'Action'], u'price': u'Free to Play'}",
        "{u'app_name': u'no id'}",
    ]
    reviews = [
        "{u'username': u'Chaos', u'hours': 0.1, u'product_id': u'20', u'date': u'2024-01-02', u'page': 1}",
        "{u'username': u'Chaos', u'product_id': u'10', u'date': u'2024-01-01', u'text': u\"it's\"}",
        "{u'username': u'Yoda', u'product_id': u'10', u'date': u'2024-01-01'}",
    ]
    gzipped(tmp_path / "steam_games.json.gz", games)
    gzipped(tmp_path / "steam_reviews.json.gz", reviews)
    arguments = ["--out", str(tmp_path / "out"), "--raw", str(tmp_path), "--core", "1"]
    assert steam.main(arguments) == 0
    items, log = tables(tmp_path / "out")
    assert items == [
        {
            "item_id": "10",
            "title": "Garry's Mod",
            "brand": "Facepunch",
            "categories": "Indie | Simulation",
            "price": 9.99,
            "tags": "Sandbox",
        },
        {"item_id": "20", "title": "TF2", "brand": None, "categories": "Action", "price": 0.0, "tags": None},
    ]
    assert [(row["user_id"], row["item_id"], row["timestamp"]) for row in log] == [
        ("Chaos", "10", NEW_YEAR),
        ("Chaos", "20", NEW_YEAR + 86_400),
        ("Yoda", "10", NEW_YEAR),
    ]
    assert "1 left out: items without an id" in capsys.readouterr().out
    gzipped(tmp_path / "steam_reviews.json.gz", [*reviews, "__import__('os').getcwd()"])
    assert steam.main(arguments) == 1
    assert "steam_reviews.json.gz, line 4: neither JSON nor a Python literal" in capsys.readouterr().err


def test_yelp(tmp_path, capsys):
    businesses = [
        {
            "business_id": "Pns2l4eNsfO8kk83dixA6A",
            "name": "Abby's Diner",
            "city": "Santa Barbara",
            "stars": 5.0,
            "is_open": 1,
            "attributes": {"ByAppointmentOnly": "True"},
            "categories": "Doctors, Health & Medical",
            "hours": None,
        }
    ]
    reviews = [
        {"review_id": "r", "user_id": "u", "business_id": businesses[0]["business_id"], "stars": stars, "date": date}
        for stars, date in ((3.0, "2024-01-01 00:00:09"), (1.0, "2024-01-01 00:00:05"))
    ]
    for name, rows in (("business", businesses), ("review", reviews)):
        (tmp_path / f"yelp_academic_dataset_{name}.json").write_text("\n".join(map(json.dumps, rows)))
    assert yelp.main(["--out", str(tmp_path / "out"), "--raw", str(tmp_path), "--core", "0"]) == 0
    items, log = tables(tmp_path / "out")
    assert items == [
        {
            "item_id": "Pns2l4eNsfO8kk83dixA6A",
            "title": "Abby's Diner",
            "categories": "Doctors, Health & Medical",
            "city": "Santa Barbara",
            "stars": 5.0,
            "is_open": 1,
        }
    ]
    assert [(row["timestamp"] - NEW_YEAR, row["rating"]) for row in log] == [(5, 1.0), (9, 3.0)]
    assert yelp.main(["--out", str(tmp_path / "out")]) == 1
    assert "need its agreement" in capsys.readouterr().err


def test_amazon_2023(tmp_path):
    products = [
        {
            "main_category": "All Beauty",
            "title": "Howard &amp; Co Leather Conditioner",
            "average_rating": 4.8,
            "rating_number": 10,
            "features": ["Soft"],
            "description": [],
            "price": "14.98",
            "images": [{"thumb": "https://m.com/s.jpg", "large": "https://m.com/l.jpg", "variant": "MAIN"}],
            "videos": [],
            "store": "Howard",
            "categories": ["Beauty", "Care"],
            "details": {"Brand": "Howard"},
            "parent_asin": "B01",
            "bought_together": None,
        },
        {
            "main_category": "All Beauty",
            "title": "Never reviewed",
            "price": "—",
            "categories": [],
            "parent_asin": "B02",
        },
    ]
    reviews = [
        {
            "rating": 5.0,
            "title": "Nice",
            "text": "x",
            "images": [],
            "asin": "B00",
            "parent_asin": "B01",
            "user_id": "AG",
            "timestamp": NEW_YEAR * 1000 + 300 - second,
            "verified_purchase": True,
        }
        for second in range(2)
    ]
    gzipped(tmp_path / "meta_All_Beauty.jsonl.gz", map(json.dumps, products))
    gzipped(tmp_path / "All_Beauty.jsonl.gz", map(json.dumps, reviews))
    arguments = ["All_Beauty", "--out", str(tmp_path / "out"), "--raw", str(tmp_path), "--core", "1"]
    assert amazon_2023.main(arguments) == 0
    items, log = tables(tmp_path / "out")
    assert items == [
        {
            "item_id": "B01",
            "title": "Howard & Co Leather Conditioner",
            "brand": "Howard",
            "categories": "Beauty > Care",
            "price": 14.98,
            "image_url": "https://m.com/l.jpg",
            "main_category": "All Beauty",
        }
    ]
    assert log == [{"user_id": "AG", "item_id": "B01", "timestamp": NEW_YEAR, "rating": 5.0}] * 2
    assert amazon_2023.main(["../etc", *arguments[1:]]) == 1
