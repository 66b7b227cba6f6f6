"""Words that de-identification must tell from names and places."""

from __future__ import annotations

# Stand where a name could stand, capitalised, and are none.
_NOT_NAMES = """
a about above according account acct acute addendum additional address admission admit admits admitted afebrile after
age air alert all also an and any aox3 apr are as ask at attending aug aunt author awaiting bed bedside been before
being below bilateral blood bp brother but by call cardiac cardiology care case cc chart chest child chinese chronic
clinic clinical clinician comfort complete condition confirmed consent consult consultant consulting contact continue
copied course coverage ct culture dad daily date daughter day death dec december department diagnosis dictated diet
discharge discharged discussed dni dnr do dob doctor dr drs dx ed ekg electronic electronically emergency end english
er exam examined face family father feb female findings floor follow followed following for french friday friend from
full fx gen general given good grandfather grandmother h&p had has have hcp he health her hers him his history home
hospital hospitalist how hp husband hx i icd icu id if in indication infectious informed initial initials inpatient
ins interpreter is it its jan joint jul jun lab labs last later lead left let license life live lives male man
mandarin mar md med medical medications medicine meds micu mom monday mother mr mrn mrs ms musculoskeletal my name
named negative neighbor nephew nephrology neuro neurology neurosurgery new next nicu niece no none normal not note
noted nov november np number nurse nursing o'clock ob oct october of off office on oncology only or order orders ortho
orthopedics other otherwise our out outpatient outside over pa pa-c pacu page pain palliative parents partner past
pathology patient patients payer pcp per pharmacist pharmacy phone physical physician plan please pmh po positive post
pre present primary problem progress provider psychiatry pt pulmonary radiology reason rec records referring rehab
report resident respiratory result results retinal retired return review reviewed right rn room ros routine russian rx
same saturday scan scheduled see seen self sep sept september service sex she sicu signed since sister so social son
spanish specialist specimen spoke stable staff state states status still stop summary sunday surgeon surgery sx team
telemetry that the their then there these they this those thursday time to today tolerated transcribed transcribing
transfer transferred transport trauma triage tuesday two tx uncle under unit unknown unremarkable until up updated
upon urology us vascular verified via visit vitals vs wants was we wednesday went were when where whether who wife
with without woman worker wound x-ray year years yes yesterday your
"""
# Words that follow "from", "in" or "to" after a verb of living or moving and are no places that identify.
_PLACE_STOPS = """
a an april assisted august bed cardiology ccu clinic december ed emergency english er february floor general her his
home hospice hospital icu january july june march may medicine micu november nursing october oncology our outside pacu
patient radiology rehab september sicu snf spanish step surgery telemetry the this unit ward
"""
# Names that are ordinary words of notes: taken as names only where they are capitalised.
_COMMON_WORDS = """
april art august banks bell bill black bond brown bush butler carpenter chance christian church clay cook cross dawn
day dean drain drew english faith fields fine fisher ford foster frank gene grace grant gray green hart hill hope
house hunter iris jack joy june king lake lance land lane law little long love low march mark marks marsh mason may
mercy miles mills moody moon new noble north nurse page park parks penny pike pitts porter power price ray read reed
rich robin rose ruby rush sage sharp singer snow sole stone summer sweet swift tender victor violet walker ward way
west wheeler white will winter wise wood woods worth young
"""
# People after whom diseases, signs and devices are called, and what follows the name when that is meant.
_EPONYMS = """
addison alzheimer apgar babinski baker barre barrett bartholin bell billroth braden brudzinski burkitt charcot cheyne
chvostek colles crohn cushing danlos doppler down dupuytren ehlers epstein ewing foley ganz giemsa glasgow gleason
graves guillain hashimoto hickman hodgkin holter homan homans huntington jackson kaposi kernig korsakoff kussmaul lyme
mallory marfan mcburney meniere murphy nissen paget parkinson penrose pratt raynaud reiter rinne romberg sjogren still
stokes swan trousseau turner virchow weber weiss wernicke whipple wilms wilson wolff wright
"""
_EPONYM_FOLLOWERS = """
anemia barr barre catheter contracture criteria cyst danlos disease down drain encephalopathy esophagus fracture
gangrene ganz line lymphoma monitor negative nodes palsy parkinson phenomenon point positive pouch pratt procedure
respirations sarcoma scale score sign signs stain stokes syndrome tear test thyroiditis tube tumor tumour ulcer up
weiss
"""

STATES = (
    "AL|AK|AZ|AR|CA|CO|CT|DE|DC|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|"
    "OR|PA|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY|PR|Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|"
    "Delaware|Florida|Georgia|Hawaii|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine|Maryland|"
    "Massachusetts|Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska|Nevada|New Hampshire|New Jersey|"
    "New Mexico|New York|North Carolina|North Dakota|Ohio|Oklahoma|Oregon|Pennsylvania|Rhode Island|South Carolina|"
    "South Dakota|Tennessee|Texas|Utah|Vermont|Virginia|Washington|West Virginia|Wisconsin|Wyoming"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMMON_WORDS, EPONYMS = _words(_COMMON_WORDS), _words(_EPONYMS)
NOT_NAMES = _words(_NOT_NAMES) - COMMON_WORDS
PLACE_STOPS, EPONYM_FOLLOWERS = _words(_PLACE_STOPS), _words(_EPONYM_FOLLOWERS)
