# Two friends build something; it fails first.
cast: duo
lesson: [good work takes time|many hands make light work|it is fine to fail and try again|two heads are better than one]

<duo-here> "[I have an idea!|Let us do something new.|What shall we do today?]" said {hero}. "Let us build {project.a}!"
<duo> <oneday>, {hero} said, "Let us build {project.a}!" "[Yes|Great idea|What fun]!" said {friend}.
<duo> They wanted to build {project.a} {place.in}.
<duo-here> They were bored. "What can we do?" asked {friend}. "We can build {project.a}," said {hero}.

They [found|looked for|got|gathered] {project.of}. [{Hero} worked hard|{Friend} sang while they worked|They worked all morning].
First, they needed {project.of}. {Hero} looked {spot} and {friend} looked {spot2}. Soon they had enough.
{Hero} brought {project.of}. {Friend} brought [{food.a} to eat|a hammer|a good plan|a long string].
They took {project.of} and began to work. [It was hard work|The work was fun|They worked for a long time].

But then {project.fails}. "Oh no!" cried {friend}.
[Soon|At last], the {project.bare} was ready. But suddenly {project.fails}!
"[It looks good|We are almost done|Look how nice it is]!" said {hero}. [Just then|At that moment], {project.fails}.

{Hero} was [angry|<sad>]. "[We can't do it|It is too hard|I give up]," {hero.he} said. "[Don't give up|Let us try again|We can fix it]," said {friend}.
{Friend} wanted to cry. "[Don't worry|It is okay]," said {hero}. "[We will try again|We can make it better|Now we know what is wrong]."
They looked at each other. Then they [began to laugh|laughed|both sighed]. "[Let us try again|One more time|We can do better]," said {hero}.

--
{Guide.first} [came by|was watching]. "You need {project.needs}," said {guide} <softly>. "[Good idea|Of course|Thank you]!" said {hero}.
{Friend} had an idea. "We need {project.needs}!" {friend.he} said. 
{Hero} thought and thought. "I know!" {hero.he} said. "We need {project.needs}."
They [asked|went to ask] {guide.first} for help. "Try {project.needs}," said {guide}.

So they [tried again|started over|began again]. This time they used {project.needs}. [They worked slowly and with care|They helped each other|It took all day].
{Hero} [held|carried|pushed] and {friend} [pulled|fixed|lifted]. They used {project.needs}. [Bit by bit|Step by step|Slowly], the {project.bare} got better.

[At last|In the end|Before sunset], the {project.bare} was ready. It was [strong|wonderful|perfect|the best {project.bare} ever]!
And this time, it [worked|held|was strong]! "We did it!" they [shouted|cheered|said together].
When they were done, {hero} and {friend} [danced around|were <happy>|clapped]. It was a [wonderful|very good|fine] {project.bare}.

?
They [invited all their friends|showed it to everyone|sat next to it and shared {food.a}|gave it a funny name].
<moral>
<moral>
<moral>
"[What shall we build tomorrow|Shall we build another one]?" asked {friend}. {Hero} laughed.
