"""The 14 regions by which figures colour cities. Imports nothing."""

REGIONS = {
    "Africa": """AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY
        MA MG ML MR MU MW MZ NA NE NG RE RW SC SD SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM
        ZW""",
    "North America": """AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC
        MF MQ MS MX NI PA PM PR SV SX TC TT US VC VG VI""",
    "South America": "AR BO BR CL CO EC FK GF GY PE PY SR UY VE",
    "Western Europe": """AD AT AX BE CH CY DE DK ES FI FO FR GB GG GI GR IE IM IS IT JE LI LU MC MT
        NL NO PT SE SJ SM VA""",
    "Eastern Europe": "AL BA BG BY CZ EE HR HU LT LV MD ME MK PL RO RS RU SI SK UA XK",
    "Middle East": "AE AM AZ BH GE IL IQ IR JO KW LB OM PS QA SA SY TR YE",
    "Central Asia": "AF KG KZ MN TJ TM UZ",
    "India": "BD BT IN IO LK MV NP PK",
    "China": "CN HK MO TW",
    "Korea": "KP KR",
    "Japan": "JP",
    "Southeast Asia": "BN CC CX ID KH LA MM MY PH SG TH TL VN",
    "Oceania": """AS AU CK FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TO TV UM VU WF WS""",
    "Antarctica": "AQ BV GS HM TF",
}
"""Region -> ISO 3166 codes of its countries. NA is Namibia."""
REGION = {code: name for name, codes in REGIONS.items() for code in codes.split()}
