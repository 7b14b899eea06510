"""Names of columns that shops and public data sets use, and the column of ours that each stands for."""

from __future__ import annotations

import re

# For what comes before `id`, `name` or `title`: product_name, movieId, track_title.
_ITEMS = (
    "item product movie film book game app track song article business recipe news video show course hotel restaurant "
    "place beer anime joke artwork listing offer job ad content sku prod"
)
_USERS = (
    "user visitor customer client member reviewer buyer account person profile player viewer reader listener shopper "
    "subscriber guest author consumer"
)


def _with(nouns: str, endings: str) -> str:
    return " ".join(noun + ending for ending in endings.split() for noun in nouns.split())


# Without blanks, underscores and capitals; those that say most come first.
_ITEM_ID = f"""
itemid parentasin asin sku productid movieid {_with(_ITEMS, "id code number")} gmapid isbn isbn13 ean gtin upc iid pid
stockcode handle id code item product
"""
ITEM_NAMES = {
    "item_id": _ITEM_ID,
    "title": f"""
        title name producttitle productname {_with(_ITEMS, "title name")} displayname headline heading product item
        label
        """,
    "description": """
        description productdescription itemdescription desc detaildesc longdescription shortdescription bodyhtml body
        summary abstract overview plot synopsis aboutthegame about text
        """,
    "brand": """
        brand brandname manufacturer vendor maker label artist artistname developer developers publisher author authors
        store seller designer
        """,
    "categories": """
        categories category genres genre categorypath categoryname productcategory productcategoryname
        googleproductcategory breadcrumbs breadcrumb taxonomy categorycode maincategory producttype producttypename
        tags department departmentname categoryid
        """,
    "price": """
        price cost unitprice amount saleprice currentprice finalprice listprice priceusd priceeur retailprice
        actualprice discountedprice sellingprice regularprice msrp
        """,
    "image_url": """
        imageurl image images img imgurl imurl imageurls imagelink imagesrc imageurlhighres picture pictureurl photo
        photourl poster posterurl posterpath thumbnail thumbnailurl thumb cover coverurl coverimage headerimage
        smallimageurl largeimageurl
        """,
}
EVENT_NAMES = {
    "user_id": f"""
        {_with(_USERS, "id")} uid userno customernumber customercode steamid deviceid cookieid fullvisitorid useruuid
        username {_USERS} sessionid session
        """,
    "item_id": _ITEM_ID,
    "timestamp": """
        timestamp unixreviewtime eventtimestamp timestampms eventtime ts time unixtime datetime createdat created
        creationdate createtime occurredat eventdate date reviewtime reviewdate orderdate purchasedate invoicedate
        transactiondate tdat orderedat purchasedat viewedat ratedat visittime playedat clicktime servertime submitted
        day dateadded updatedat lastupdated
        """,
    "rating": "rating stars overall score reviewscore reviewrating overallrating userrating",
    "label": "label clicked isclick isclicked click purchased ispurchased isrecommended",
}
_KNOWN = set(" ".join([*ITEM_NAMES.values(), *EVENT_NAMES.values()]).split())
# Lists of these are steps of a path; lists of other names (genres, tags) are words side by side.
_PATHS = re.compile(r"categor|breadcrumb|taxonomy")


def bare(name: str) -> str:
    """A name without capitals, blanks and marks: ``Product-ID`` is ``productid``."""
    return re.sub(r"[\W_]+", "", name.casefold())


def is_known_name(name: str) -> bool:
    """Whether a column of this name is known to stand for one of ours."""
    return bare(name) in _KNOWN


def is_image_name(name: str) -> bool:
    """Whether a column of this name holds images."""
    return bare(name) in ITEM_NAMES["image_url"].split()


def is_path_name(name: str) -> bool:
    """Whether a list in a column of this name is a path, ``Beauty > Hair``."""
    return bool(_PATHS.search(bare(name)))


def named(columns: list[str], names: str) -> list[str]:
    """Columns that have one of these names, in the order of the names.

    Args:
        columns: names of columns.
        names: bare names, separated by blanks.
    """
    places = {name: place for place, name in reversed(list(enumerate(names.split())))}
    found = [column for column in columns if bare(column) in places]
    return sorted(found, key=lambda column: places[bare(column)])


def meant(columns: list[str]) -> dict[str, str]:
    """Special columns of an item table that are missing, and the column that seems to be meant by each.

    ``["item_id", "name", "price"]`` gives ``{"title": "name"}``.
    """
    found: dict[str, str] = {}
    for target in ("title", "brand", "categories", "price"):
        others = [name for name in named(columns, ITEM_NAMES[target]) if name not in found.values()]
        if target not in columns and others:
            found[target] = others[0]
    return found
