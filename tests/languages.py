"""Short passages in languages with and without spaces, written for these tests, and tokenizers trained on them."""

from functools import lru_cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from dgr_trainer.data.passages import Passage

# (title, text): the titles differ, and every text holds a few sentences.
TEXTS = {
    "japanese": [
        ("富士山", "富士山は日本で一番高い山です。静岡県と山梨県にまたがり、夏には多くの人が頂上を目指して登ります。"),
        ("琵琶湖", "琵琶湖は滋賀県にある日本で一番大きな湖です。古くから水運に使われ、今も多くの人の飲み水になっています。"),
        ("京都", "京都は千年以上のあいだ日本の都でした。古い寺や神社が多く、春には桜を見る人でにぎわいます。"),
        ("新幹線", "新幹線は東京と大阪のあいだを二時間半で結ぶ速い列車です。最初の路線は東京オリンピックの年に開業しました。"),
        ("寿司", "寿司は酢で味をつけたご飯に魚をのせた料理です。江戸の町では屋台で売られ、手軽な食べ物でした。"),
        ("俳句", "俳句は五七五の音からなる短い詩です。季節を表す言葉を入れるのが決まりで、松尾芭蕉の句がよく知られています。"),
        ("相撲", "相撲は土俵の上で二人の力士が戦う競技です。相手を土俵の外に出すか、倒せば勝ちになります。"),
        ("味噌", "味噌は大豆と塩と麹から作る調味料です。地方によって色や味が違い、毎日の汁物に使われます。"),
        ("桜", "桜は春に咲く花で、日本の多くの公園に植えられています。花の命は短く、一週間ほどで散ってしまいます。"),
        ("温泉", "温泉は地下から湧き出る温かい水です。火山の多い日本では、各地の温泉に旅館が建っています。"),
    ],
    "chinese": [
        ("长城", "长城是中国古代修建的一道城墙，从东到西绵延几千公里。历代皇帝用它来防御北方的骑兵。"),
        ("长江", "长江是亚洲最长的河流，发源于青藏高原，在上海附近流入东海。沿岸的城市靠它运输货物。"),
        ("茶", "茶是用茶树的叶子泡成的饮料。中国人喝茶已有几千年的历史，绿茶和红茶的做法不同。"),
        ("造纸术", "造纸术是中国古代的四大发明之一。人们用树皮和旧布做成纸，使书籍变得便宜。"),
        ("熊猫", "大熊猫生活在四川的山里，主要吃竹子。它们的数量很少，所以受到国家的保护。"),
        ("北京", "北京是中国的首都，故宫就在城市的中心。每年有很多游客来这里参观古老的宫殿。"),
        ("火药", "火药是道士在炼丹的时候发现的。后来人们把它用在烟花和武器上，改变了战争的方式。"),
        ("豆腐", "豆腐是用大豆做的食品，颜色白，味道清淡。把豆浆煮开以后加入石膏，就会凝固成豆腐。"),
        ("春节", "春节是中国人最重要的节日。家人在除夕的晚上一起吃饭，孩子们会得到红包。"),
        ("丝绸", "丝绸是用蚕吐的丝织成的布。古代的商人沿着丝绸之路把它卖到遥远的罗马。"),
    ],
    "thai": [
        ("กรุงเทพ", "กรุงเทพเป็นเมืองหลวงของประเทศไทย ตั้งอยู่ริมแม่น้ำเจ้าพระยาและมีวัดเก่าแก่มากมายที่นักท่องเที่ยวมาเยี่ยมชม"),
        ("ช้าง", "ช้างเป็นสัตว์บกที่ใหญ่ที่สุดในเอเชีย คนไทยเคยใช้ช้างลากไม้ในป่าและขี่ออกรบในสงคราม"),
        ("ข้าว", "ข้าวเป็นอาหารหลักของคนไทย ชาวนาปลูกข้าวในฤดูฝนและเก็บเกี่ยวเมื่อรวงข้าวเป็นสีทอง"),
        ("สงกรานต์", "สงกรานต์เป็นวันขึ้นปีใหม่ของไทย ผู้คนสาดน้ำใส่กันและรดน้ำขอพรจากผู้ใหญ่ในเดือนเมษายน"),
        ("เชียงใหม่", "เชียงใหม่เป็นเมืองใหญ่ทางภาคเหนือ ล้อมรอบด้วยภูเขาและมีอากาศเย็นในฤดูหนาว"),
        ("ทุเรียน", "ทุเรียนเป็นผลไม้ที่มีหนามแหลมและกลิ่นแรง หลายคนเรียกว่าราชาแห่งผลไม้เพราะรสชาติหวานมัน"),
        ("มวยไทย", "มวยไทยเป็นกีฬาที่ใช้หมัด ศอก เข่า และเท้า นักมวยจะไหว้ครูก่อนเริ่มการแข่งขันทุกครั้ง"),
        ("ต้มยำกุ้ง", "ต้มยำกุ้งเป็นแกงที่มีรสเปรี้ยวและเผ็ด ใส่ตะไคร้ ใบมะกรูด และกุ้งตัวใหญ่"),
        ("แม่น้ำโขง", "แม่น้ำโขงเป็นแม่น้ำที่ไหลผ่านหลายประเทศ ชาวประมงจับปลาบึกซึ่งเป็นปลาน้ำจืดที่ใหญ่มาก"),
        ("ผ้าไหม", "ผ้าไหมเป็นผ้าที่ทอจากเส้นใยของตัวไหม ชาวบ้านในภาคอีสานทอผ้าด้วยมือเป็นลวดลายสวยงาม"),
    ],
    "arabic": [
        ("القاهرة", "القاهرة هي عاصمة مصر وأكبر مدنها، وتقع على ضفاف النيل. وفيها مساجد قديمة وأسواق يزورها الناس من كل مكان."),
        ("النيل", "النيل هو أطول نهر في أفريقيا، ويجري من الجنوب إلى الشمال حتى البحر المتوسط. وعلى ضفافه قامت حضارة مصر القديمة."),
        ("الجمل", "الجمل حيوان يعيش في الصحراء ويصبر على العطش أياما طويلة. وقد استعمله التجار في نقل البضائع عبر الرمال."),
        ("التمر", "التمر هو ثمر النخلة، وهو غذاء مهم في بلاد العرب. ويؤكل في شهر رمضان عند الإفطار قبل الطعام."),
        ("الصفر", "الصفر رقم نقله العلماء العرب من الهند إلى أوروبا. وبفضله صار الحساب أسهل في التجارة والفلك."),
        ("البتراء", "البتراء مدينة قديمة في الأردن نحتت في الصخر الوردي. وكانت محطة للقوافل التي تحمل البخور من الجنوب."),
        ("القهوة", "القهوة شراب عرفه أهل اليمن قبل قرون، ثم انتشر في العالم كله. وتقدم للضيف في فنجان صغير."),
        ("العود", "العود آلة موسيقية لها أوتار تعزف بالريشة. وهي من أهم الآلات في الموسيقى العربية."),
        ("الخوارزمي", "الخوارزمي عالم عاش في بغداد وكتب في الجبر والحساب. ومن اسمه جاءت كلمة الخوارزمية في لغات كثيرة."),
        ("دمشق", "دمشق هي عاصمة سوريا ومن أقدم المدن في العالم. وفيها الجامع الأموي وسوق الحميدية."),
    ],
    "german": [
        ("Zugspitze", "Die Zugspitze ist der höchste Berg in Deutschland. Auf den Gipfel fährt eine Zahnradbahn, und im Winter "
         "liegt dort Schnee für die Skifahrer."),
        ("Rhein", "Der Rhein entspringt in den Alpen und fließt durch die Schweiz und Deutschland in die Nordsee. Auf dem "
         "Fluss fahren viele Schiffe mit Kohle und Getreide."),
        ("Buchdruck", "Der Buchdruck mit beweglichen Buchstaben wurde in Mainz erfunden. Die Bücher wurden billiger, und "
         "die Menschen lernten in den Städten das Lesen."),
        ("Brot", "Das Brot wird in Deutschland aus Roggen und Weizen gebacken. Die Bäcker kennen viele Sorten, und der "
         "Teig geht mit Sauerteig über Nacht."),
        ("Dampflokomotive", "Die erste Dampflokomotive in Deutschland fuhr von Nürnberg nach Fürth. Die Strecke war kurz, "
         "und der Zug zog auch Fässer mit Bier."),
        ("Hamburg", "Hamburg ist eine Stadt an der Elbe und hat den größten Hafen in Deutschland. Die Schiffe bringen "
         "Kaffee und Gewürze aus der ganzen Welt."),
        ("Schwarzwald", "Der Schwarzwald ist ein Gebirge im Südwesten. Die Wälder sind dicht, und in den Tälern werden "
         "Uhren mit einem Kuckuck gebaut."),
        ("Beethoven", "Beethoven wurde in Bonn geboren und schrieb neun Sinfonien. Er verlor das Gehör und komponierte mit "
         "der Erinnerung an die Töne weiter."),
        ("Autobahn", "Die Autobahn verbindet die großen Städte des Landes. Auf vielen Strecken gibt es keine Grenze für die "
         "Geschwindigkeit, und der Verkehr ist dicht."),
        ("Oktoberfest", "Das Oktoberfest findet in München statt und beginnt schon im September. Die Gäste trinken Bier "
         "in den Zelten und fahren mit dem Riesenrad."),
    ],
}  # fmt: skip
LANGUAGES = list(TEXTS)
UNSPACED = ["japanese", "chinese", "thai"]
KINDS = ["byte_bpe", "unigram", "wordpiece"]


def passages_in(language: str) -> list[Passage]:
    """The passages of a language, with ids in Latin letters and their titles as docids."""
    texts = TEXTS[language]
    return [Passage(f"{language}-{number}", title, text, docid=title) for number, (title, text) in enumerate(texts)]


@lru_cache
def tokenizer_for(language: str, kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer of one kind, trained on the passages of a language (and the markers)."""
    texts = [" ".join([title, "@@", text, "|| title body query + ##"]) for title, text in TEXTS[language]]
    if kind == "byte_bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=420, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
        names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        ending = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=700, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        )
        names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        ending = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=700, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
        )
        names = {"sep_token": "[SEP]", "cls_token": "[CLS]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
        ending = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = ending
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
