"""Small grammars for what the corpora lack: a patient who describes a complaint, in both languages, and items with options.

They teach the demonstration its manners (ask, mention warning signs, point to a clinician), not medicine.
"""

EN = {
    "hello": ["Hello BiMediX! ", "Hello! ", "Hi, ", "Good morning. ", "Hi doctor, ", ""],
    "say": ["I've been experiencing {s} {d}.", "I have had {s} {d}.", "I've been having {s} {d}. What should I do?",
            "I feel {s} {d}, is it serious?", "My main problem is {s}, {d}."],
    "durations": ["in the past week", "for three days", "since yesterday", "for about a month", "for the last two weeks",
                  "since last night", "on and off for a while"],
    "reply": ["I'm sorry to hear that you have had {s} {d}. {q} {w} {c}",
              "Thank you for telling me about it. {q} {w} {c}",
              "{s_cap} can have many causes, and most of them are not serious. {q} {w} {c}"],
    "close": ["I am a research assistant and not a doctor, so please see a clinician if it continues.",
              "This is general information and not medical advice; a doctor can examine you.",
              "If it does not improve, please make an appointment with a doctor."],
    "more": ["I also sleep badly.", "No, nothing else.", "Yes, a little.", "I take no medicines.", "It is worse in the evening.", "I am 45 years old."],
    "follow": ["Thank you, that helps. {w} {c}", "I see. Keep a note of when it happens and what makes it better. {c}"],
    "symptoms": {
        "increased tiredness": ("Have you been sleeping well, and have you noticed fever, weight loss or low mood?", "Tiredness can come from poor sleep, stress, anaemia or thyroid problems, and a simple blood test often helps."),
        "a headache": ("Where is the pain, and is there fever, vomiting or trouble seeing?", "A sudden, very severe headache, a stiff neck or weakness on one side needs emergency care."),
        "a sore throat": ("Do you have fever, swollen glands or a cough?", "Most sore throats are viral and get better in a week with rest and fluids."),
        "a dry cough": ("Do you have fever, chest pain or trouble breathing?", "Shortness of breath or coughing blood needs urgent care."),
        "stomach pain": ("Where does it hurt, and do you have vomiting, fever or blood in the stool?", "Severe or constant pain, or a hard belly, needs urgent care."),
        "chest pain": ("Does it spread to the arm or jaw, and are you sweating or short of breath?", "Chest pain can be an emergency: call your emergency number now if it is severe or does not stop."),
        "dizziness": ("Does the room spin, and did you faint or change a medicine?", "Stand up slowly and drink enough water; fainting or trouble speaking needs urgent care."),
        "back pain": ("Did you lift something heavy, and do your legs feel weak or numb?", "Gentle movement helps most back pain; loss of bladder control needs emergency care."),
        "a skin rash": ("Is it itchy, is it spreading, and did you start a new medicine?", "A rash with swelling of the face or trouble breathing is an emergency."),
        "trouble sleeping": ("What time do you go to bed, and do you drink coffee in the evening?", "A regular bedtime, less screen light and no late caffeine often help."),
        "joint pain": ("Which joints hurt, and are they swollen or stiff in the morning?", "A hot, very swollen joint with fever should be seen the same day."),
        "fever": ("How high is it, and do you have a rash, a stiff neck or trouble breathing?", "Drink fluids and rest; a fever over three days or with confusion needs a doctor."),
        "nausea": ("Could you be pregnant, and do you have pain, fever or diarrhoea?", "Small sips of water help; seek care if you cannot keep fluids down."),
        "anxiety": ("Is there something that worries you most, and how do you sleep?", "Slow breathing and talking to somebody help; if you think of harming yourself, call a crisis line now."),
        "high blood sugar": ("Do you have diabetes, and are you very thirsty or passing more urine?", "Vomiting, deep breathing or drowsiness with high sugar is an emergency."),
        "swollen feet": ("Is it both feet, and are you short of breath when lying down?", "Swelling of one leg with pain should be checked quickly for a clot."),
    },
}

AR = {
    "hello": ["مرحبا BiMediX! ", "مرحبا، ", "السلام عليكم، ", "صباح الخير. ", "أهلا دكتور، ", ""],
    "say": ["أعاني من {s} {d}.", "عندي {s} {d}.", "أشعر منذ فترة بـ{s} {d}. ماذا أفعل؟", "لدي {s} {d}، هل هذا خطير؟", "مشكلتي هي {s} {d}."],
    "durations": ["في الأسبوع الماضي", "منذ ثلاثة أيام", "منذ أمس", "منذ حوالي شهر", "خلال الأسبوعين الماضيين", "منذ الليلة الماضية", "من وقت لآخر"],
    "reply": ["يؤسفني أنك تعاني من {s} {d}. {q} {w} {c}", "شكرا لأنك أخبرتني بذلك. {q} {w} {c}", "قد يكون لـ{s} أسباب كثيرة ومعظمها ليس خطيرا. {q} {w} {c}"],
    "close": ["أنا مساعد بحثي ولست طبيبا، لذا يرجى مراجعة الطبيب إذا استمر الأمر.", "هذه معلومات عامة وليست نصيحة طبية، والطبيب يستطيع فحصك.", "إذا لم تتحسن، فيرجى حجز موعد مع الطبيب."],
    "more": ["أنام أيضا بشكل سيئ.", "لا، لا شيء آخر.", "نعم، قليلا.", "لا أتناول أي أدوية.", "يزداد الأمر في المساء.", "عمري خمسة وأربعون عاما."],
    "follow": ["شكرا، هذا يساعد. {w} {c}", "فهمت. سجل متى يحدث ذلك وما الذي يخففه. {c}"],
    "symptoms": {
        "تعب متزايد": ("هل تنام جيدا، وهل لاحظت حمى أو نقصا في الوزن أو حزنا؟", "قد ينتج التعب عن قلة النوم أو التوتر أو فقر الدم أو مشاكل الغدة الدرقية، وكثيرا ما يفيد تحليل دم بسيط."),
        "صداع": ("أين الألم، وهل توجد حمى أو قيء أو مشكلة في الرؤية؟", "الصداع المفاجئ الشديد جدا أو تيبس الرقبة أو ضعف جانب من الجسم يحتاج إلى الطوارئ."),
        "التهاب في الحلق": ("هل لديك حمى أو تورم في الغدد أو سعال؟", "معظم التهابات الحلق فيروسية وتتحسن خلال أسبوع مع الراحة والسوائل."),
        "سعال جاف": ("هل لديك حمى أو ألم في الصدر أو صعوبة في التنفس؟", "ضيق التنفس أو السعال مع الدم يحتاج إلى رعاية عاجلة."),
        "ألم في المعدة": ("أين الألم، وهل لديك قيء أو حمى أو دم في البراز؟", "الألم الشديد أو المستمر أو البطن القاسي يحتاج إلى رعاية عاجلة."),
        "ألم في الصدر": ("هل يمتد إلى الذراع أو الفك، وهل تتعرق أو تشعر بضيق التنفس؟", "قد يكون ألم الصدر حالة طارئة: اتصل برقم الطوارئ الآن إذا كان شديدا أو لا يتوقف."),
        "دوخة": ("هل تدور بك الغرفة، وهل أغمي عليك أو غيرت دواء؟", "قف ببطء واشرب ما يكفي من الماء، والإغماء أو صعوبة الكلام تحتاج إلى رعاية عاجلة."),
        "ألم في الظهر": ("هل رفعت شيئا ثقيلا، وهل تشعر بضعف أو خدر في الساقين؟", "الحركة الخفيفة تفيد في معظم آلام الظهر، وفقدان التحكم في البول يحتاج إلى الطوارئ."),
        "طفح جلدي": ("هل يسبب حكة، وهل ينتشر، وهل بدأت دواء جديدا؟", "الطفح مع تورم الوجه أو صعوبة التنفس حالة طارئة."),
        "صعوبة في النوم": ("متى تذهب إلى النوم، وهل تشرب القهوة في المساء؟", "كثيرا ما يفيد موعد نوم ثابت وتقليل ضوء الشاشات وتجنب الكافيين ليلا."),
        "ألم في المفاصل": ("أي المفاصل تؤلمك، وهل هي متورمة أو متيبسة في الصباح؟", "المفصل الساخن المتورم جدا مع الحمى يجب فحصه في اليوم نفسه."),
        "حمى": ("كم درجة الحرارة، وهل لديك طفح أو تيبس في الرقبة أو صعوبة في التنفس؟", "اشرب السوائل واسترح، والحمى لأكثر من ثلاثة أيام أو مع ارتباك تحتاج إلى طبيب."),
        "غثيان": ("هل من الممكن أن تكوني حاملا، وهل يوجد ألم أو حمى أو إسهال؟", "رشفات صغيرة من الماء تفيد، واطلب الرعاية إذا لم تستطع شرب السوائل."),
        "قلق": ("هل هناك شيء يقلقك أكثر من غيره، وكيف نومك؟", "التنفس البطيء والحديث مع شخص تثق به يفيدان، وإذا فكرت في إيذاء نفسك فاتصل بخط المساعدة الآن."),
        "ارتفاع في سكر الدم": ("هل لديك سكري، وهل تشعر بعطش شديد أو كثرة تبول؟", "القيء أو التنفس العميق أو النعاس مع ارتفاع السكر حالة طارئة."),
        "تورم في القدمين": ("هل التورم في القدمين معا، وهل تشعر بضيق التنفس عند الاستلقاء؟", "تورم ساق واحدة مع ألم يجب فحصه بسرعة لاحتمال وجود جلطة."),
    },
}

WORDS = {"en": EN, "ar": AR}


def complaints(language, rng, count):
    """A complaint and a careful answer; every third with a second turn."""
    words = WORDS[language]
    for _ in range(count):
        symptom = rng.choice(list(words["symptoms"]))
        question, warning = words["symptoms"][symptom]
        fill = {"s": symptom, "s_cap": symptom[0].upper() + symptom[1:], "d": rng.choice(words["durations"]),
                "q": question, "w": warning, "c": rng.choice(words["close"])}
        say = lambda key: rng.choice(words[key]).format(**fill)
        messages = [{"role": "user", "content": say("hello") + say("say")}, {"role": "assistant", "content": say("reply")}]
        if rng.random() < 0.33:
            messages += [{"role": "user", "content": say("more")}, {"role": "assistant", "content": say("follow")}]
        yield messages


def triage_items(language, rng, count):
    """Items with options and closed questions whose answers follow from the template's own text."""
    words = WORDS[language]
    letters = {"en": "ABCD", "ar": "أبجد"}[language]
    for _ in range(count):
        options = rng.sample(list(words["symptoms"]), 4)
        right = rng.randrange(4)
        question, warning = words["symptoms"][options[right]]
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options))
        if rng.random() < 0.5:
            asked = {"en": f"Question: To which complaint does this advice belong? {warning}\nOptions:\n{listed}",
                     "ar": f"السؤال: إلى أي شكوى تعود هذه النصيحة؟ {warning}\nالخيارات:\n{listed}"}[language]
            told = {"en": f"The correct answer is {letters[right]}.", "ar": f"الجواب الصحيح هو {letters[right]}."}[language]
        else:
            kind = rng.choice(["yes", "no", "maybe"])
            about = {"yes": options[right], "no": options[right - 1], "maybe": options[right]}[kind]
            note = {"en": {"yes": "The patient reports {}.", "no": "The patient reports {}.", "maybe": "The notes about {} are not clear."},
                    "ar": {"yes": "يشكو المريض من {}.", "no": "يشكو المريض من {}.", "maybe": "الملاحظات عن {} غير واضحة."}}[language][kind].format(options[right])
            asked = {"en": f"Context: {note}\nQuestion: Does the patient have {about}?", "ar": f"السياق: {note}\nالسؤال: هل لدى المريض {about}؟"}[language]
            told = {"en": {"yes": "yes", "no": "no", "maybe": "maybe"}, "ar": {"yes": "نعم", "no": "لا", "maybe": "ربما"}}[language][kind]
        yield [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
